"""Likelihoods from a bare torch module, on its own device: for models in training, which no folder holds yet."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch.nn import functional

from gemma_bench.measure.likelihood import Sequences, TokenNats

_LOGITS = 1 << 28
"""Logits in memory at a time: 1 GB in float32."""


def of_module(model: Any, start_token: int) -> TokenNats:
    """Score with a `Gemma3ForCausalLM`, adapted or not; the start token is read first, so that every token counts."""

    @torch.inference_mode()
    def score(tokens: Sequences) -> Float[np.ndarray, "sequence position"]:
        starts = np.full((len(tokens), 1), start_token, np.int64)
        read = torch.from_numpy(np.concatenate([starts, tokens.astype(np.int64)], axis=1))
        rows = max(1, _LOGITS // (tokens.shape[1] * model.config.vocab_size))
        parts = [_part_nats(model, part.to(model.device)).cpu().numpy() for part in read.split(rows)]
        return np.concatenate(parts).astype(np.float64)

    return score


def _part_nats(model: Any, read: torch.Tensor) -> torch.Tensor:
    hidden = model.model(input_ids=read[:, :-1], use_cache=False).last_hidden_state
    logits = model.lm_head(hidden).float()
    return functional.cross_entropy(logits.transpose(1, 2), read[:, 1:], reduction="none")
