"""A Gemma 3 of 165 thousand parameters for byte-level text: small enough to train thousands of steps on one core."""

from typing import TYPE_CHECKING, Any, cast

import torch

from gemma_bench.models.catalog import Size

if TYPE_CHECKING:
    from transformers import Gemma3ForCausalLM

MICRO = Size(
    name="micro",
    num_hidden_layers=3,
    hidden_size=64,
    intermediate_size=192,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    query_pre_attn_scalar=16,
    sliding_window=64,
    sliding_window_pattern=2,
    max_position_embeddings=512,
    vocab_size=262,
    hub_id=None,
    multimodal=False,
)


def micro_model(size: Size = MICRO, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> "Gemma3ForCausalLM":
    """Return a randomly initialised model, as transformers would begin a training with it; a seed gives its numbers."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = Gemma3ForCausalLM(Gemma3TextConfig(**size.config()))
    return cast("Gemma3ForCausalLM", model.to(dtype))
