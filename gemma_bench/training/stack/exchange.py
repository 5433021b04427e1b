"""A model of a stack as a model of transformers and back: the same weights under their names there."""

from typing import Any

from torch import Tensor
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, GPT2Config, GPT2LMHeadModel

from gemma_bench.training.stack.blocks import unpack
from gemma_bench.training.stack.shape import Shape

_GEMMA3 = {
    "attention_norm": "input_layernorm",
    "query_norm": "self_attn.q_norm",
    "key_norm": "self_attn.k_norm",
    "out": "self_attn.o_proj",
    "attention_post_norm": "post_attention_layernorm",
    "mlp_norm": "pre_feedforward_layernorm",
    "down": "mlp.down_proj",
    "mlp_post_norm": "post_feedforward_layernorm",
}
_GPT2 = {
    "attention_norm": "ln_1",
    "qkv": "attn.c_attn",
    "out": "attn.c_proj",
    "mlp_norm": "ln_2",
    "up": "mlp.c_fc",
    "down": "mlp.c_proj",
}


def to_transformers(row: Tensor, shape: Shape) -> Any:
    """Return one model of a stack, given as its row, as `Gemma3ForCausalLM` or `GPT2LMHeadModel` in float32."""
    model, state = {"gemma3": _to_gemma3, "gpt2": _to_gpt2}[shape.style](row, shape)
    missing = model.load_state_dict(state, strict=False)
    unexpected = [name for name in missing.missing_keys if name != "lm_head.weight"] + missing.unexpected_keys
    if unexpected:
        raise KeyError(f"transformers names these tensors otherwise: {unexpected}")
    return model.eval()


def _to_gemma3(row: Tensor, shape: Shape) -> tuple[Any, dict[str, Tensor]]:
    config = Gemma3TextConfig(
        vocab_size=shape.symbols,
        hidden_size=shape.width,
        intermediate_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.groups,
        head_dim=shape.head_width,
        query_pre_attn_scalar=shape.head_width,
        max_position_embeddings=shape.length,
        layer_types=["full_attention"] * shape.layers,
        rope_parameters={
            kind: {"rope_type": "default", "rope_theta": shape.rope_base}
            for kind in ("full_attention", "sliding_attention")
        },
        rms_norm_eps=shape.epsilon,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )
    state: dict[str, Tensor] = {}
    queries, keys = shape.heads * shape.head_width, shape.groups * shape.head_width
    for name, stacked in unpack(row[None], shape).items():
        layer, _, part = name.partition(".")
        tensor, prefix = stacked[0], f"model.layers.{layer}."
        match part:
            case "qkv":
                parts = zip("qkv", tensor.split((queries, keys, keys)), strict=True)
                state |= {f"{prefix}self_attn.{which}_proj.weight": piece for which, piece in parts}
            case "gate_up":
                state |= {f"{prefix}mlp.{which}_proj.weight": piece for which, piece in _halves(tensor)}
            case "":
                state["model.norm.weight" if name == "norm" else "model.embed_tokens.weight"] = tensor
            case _:
                state[f"{prefix}{_GEMMA3[part]}.weight"] = tensor
    return Gemma3ForCausalLM(config), state


def _halves(tensor: Tensor) -> Any:
    return zip(("gate", "up"), tensor.chunk(2), strict=True)


def _to_gpt2(row: Tensor, shape: Shape) -> tuple[Any, dict[str, Tensor]]:
    config = GPT2Config(
        vocab_size=shape.symbols,
        n_positions=shape.length,
        n_embd=shape.width,
        n_layer=shape.layers,
        n_head=shape.heads,
        n_inner=shape.hidden,
        layer_norm_epsilon=shape.epsilon,
        resid_pdrop=0,
        embd_pdrop=0,
        attn_pdrop=0,
        bos_token_id=None,
        eos_token_id=None,
    )
    ends = {"embedding": "wte.weight", "positions": "wpe.weight", "norm": "ln_f.weight", "norm_bias": "ln_f.bias"}
    state: dict[str, Tensor] = {}
    for name, stacked in unpack(row[None], shape).items():
        layer, _, part = name.partition(".")
        tensor = stacked[0]
        if not part:
            state[f"transformer.{ends[name]}"] = tensor
            continue
        kind = "bias" if part.endswith("_bias") else "weight"
        conv1d = tensor.T if tensor.ndim > 1 else tensor  # GPT-2's Conv1D holds in × out
        state[f"transformer.h.{layer}.{_GPT2[part.removesuffix('_bias')]}.{kind}"] = conv1d.contiguous()
    return GPT2LMHeadModel(config), state
