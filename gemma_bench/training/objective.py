"""What is minimised: how rows become a batch, how many targets it has, and the sum of their losses."""

from typing import Any, Protocol, cast

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from gemma_bench.training.data import IGNORED, padded
from gemma_bench.training.head_loss import summed_cross_entropy

Batch = dict[str, Tensor]

_MOST_LOGITS = 1 << 28
"""Above 1 GB of logits in float32 they are made in pieces, and once more in the backward pass."""


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
        """Pad examples; take rows of one length as they are, where every token but the first is a target."""
        if not isinstance(rows, Tensor):
            return padded(rows)
        ids = rows.long()
        return {"input_ids": ids, "labels": ids}

    def target_count(self, batch: Batch) -> int:
        """Count the labels behind the first position."""
        return int((batch["labels"][:, 1:] != IGNORED).sum())

    def __call__(self, model: Any, batch: Batch) -> Float[Tensor, ""]:
        """Run the model, its head only where something is predicted.

        Padding stands at the right end, where causal attention needs no mask against it.
        """
        hidden = model.get_decoder()(input_ids=batch["input_ids"], use_cache=False).last_hidden_state[:, :-1]
        labels = batch["labels"][:, 1:]
        is_target, head = labels != IGNORED, model.get_output_embeddings()
        hidden, labels = hidden[is_target], labels[is_target]  # row hidden
        return summed_nats(head, hidden, labels)


def summed_nats(head: nn.Module, hidden: Float[Tensor, "row hidden"], labels: Int[Tensor, " row"]) -> Float[Tensor, ""]:
    """Return the sum of the rows' losses, in pieces where all logits at once would fill the memory."""
    if len(labels) * len(cast(Any, head).weight) > _MOST_LOGITS:
        return summed_cross_entropy(head, hidden, labels)
    return cross_entropy(head(hidden).float(), labels, reduction="sum")
