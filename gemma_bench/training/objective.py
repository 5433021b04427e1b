"""What is minimised: how rows become a batch, how many targets it has, and the sum of their losses."""

from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

Batch = dict[str, Tensor]

IGNORED = -100
"""The label of a position that is not to be predicted."""


class Objective(Protocol):
    """A sum over targets, so that batches of different lengths weigh by their tokens."""

    def collate(self, rows: Any) -> Batch:
        """Make a batch of what the data set returned."""
        ...

    def target_count(self, batch: Batch) -> int:
        """Return how many targets a batch has."""
        ...

    def __call__(self, model: nn.Module, batch: Batch) -> Float[Tensor, ""]:
        """Return the sum of the targets' losses in nats."""
        ...


class NextToken:
    """−log p of every labelled token given those before it."""

    def collate(self, rows: Any) -> Batch:
        """Take rows of one length as they are: every token but the first is a target."""
        ids = torch.as_tensor(rows).long()
        return {"input_ids": ids, "labels": ids}

    def target_count(self, batch: Batch) -> int:
        """Count the labels behind the first position."""
        return int((batch["labels"][:, 1:] != IGNORED).sum())

    def __call__(self, model: nn.Module, batch: Batch) -> Float[Tensor, ""]:
        """Run the model; padding stands at the right end, where causal attention needs no mask against it."""
        logits = model(input_ids=batch["input_ids"], use_cache=False).logits[:, :-1]  # batch position vocab
        labels = batch["labels"][:, 1:]
        return cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="sum")
