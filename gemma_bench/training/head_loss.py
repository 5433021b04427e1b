"""Cross-entropy of many rows at a vocabulary of 262,144 without ever holding all of their logits."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK_ROWS = 2048
"""Rows whose logits are in memory at a time: 1 GB in bfloat16 at the full vocabulary, twice that in float32."""


def summed_cross_entropy(
    head: Callable[[Tensor], Tensor],
    hidden: Float[Tensor, "row hidden"],
    labels: Int[Tensor, " row"],
    chunk_rows: int = CHUNK_ROWS,
) -> Float[Tensor, ""]:
    """Return the sum over rows of -log softmax(head(hidden))[label], in float32.

    Logits are computed chunk by chunk and once more in the backward pass. The result is the same for every
    `chunk_rows`, up to rounding; no rows give 0.
    """
    total = hidden.new_zeros((), dtype=torch.float32)
    for some_hidden, some_labels in zip(hidden.split(chunk_rows), labels.split(chunk_rows), strict=True):
        total = total + checkpoint(_chunk_loss, head, some_hidden, some_labels, use_reentrant=False)
    return total


def _chunk_loss(
    head: Callable[[Tensor], Tensor], hidden: Float[Tensor, "row hidden"], labels: Int[Tensor, " row"]
) -> Float[Tensor, ""]:
    return torch.nn.functional.cross_entropy(head(hidden).float(), labels, reduction="sum")


def next_token_loss(
    model: Any, tokens: Int[Tensor, "batch position"], is_counted: Bool[Tensor, "batch position"]
) -> Float[Tensor, ""]:
    """Return the mean -log p of the counted tokens, each given all before it, for a causal model with a head."""
    hidden = model.get_decoder()(input_ids=tokens, use_cache=False).last_hidden_state
    following = is_counted[:, 1:]
    total = summed_cross_entropy(model.get_output_embeddings(), hidden[:, :-1][following], tokens[:, 1:][following])
    return total / following.sum().clamp(min=1)
