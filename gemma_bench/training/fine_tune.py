"""Short runs on a few sequences: a model, all of it or an adapter beside it, is trained and can be put back."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn

from gemma_bench.core.errors import BadInputError, InvalidRunError
from gemma_bench.training import adapters
from gemma_bench.training.head_loss import summed_cross_entropy
from gemma_bench.training.schedule import half_cosine
from gemma_bench.training.short_run import descend


class Trainee(Protocol):
    """A `Gemma3ForCausalLM` of which something is trained."""

    model: Any

    def parameters(self) -> list[nn.Parameter]:
        """Return what is trained."""
        ...

    def restart(self, seed: int) -> None:
        """Put the model back to what it was before any training."""
        ...


class WholeModel:
    """Every weight is trained."""

    def __init__(self, model: Any) -> None:
        """Keep a copy of the weights to come back to."""
        self.model = model
        self._start = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def parameters(self) -> list[nn.Parameter]:
        """Return all parameters, a tied head once."""
        return list(self.model.parameters())

    def restart(self, seed: int) -> None:  # noqa: ARG002 - nothing is drawn
        """Put the first weights back."""
        self.model.load_state_dict(self._start)


class Adapter:
    """The weights are frozen; low-rank factors beside them are trained."""

    def __init__(self, model: Any, rank: int, targets: tuple[str, ...] = adapters.PROJECTIONS) -> None:
        """Attach factors in float32 beside the model's matrices."""
        self.model = model
        self._layers = adapters.layers(adapters.attach(model, rank, targets=targets, dtype=torch.float32))

    def parameters(self) -> list[nn.Parameter]:
        """Return both factors of every layer."""
        return [factor for layer in self._layers.values() for factor in adapters.adapter_parameters(layer)]

    def restart(self, seed: int) -> None:
        """Draw new factors, of which one is zero: the model computes what it did without them."""
        generator = Generator().manual_seed(seed)
        for layer in self._layers.values():
            adapters.restart(layer, generator)


@dataclass(frozen=True)
class Course:
    """How long and how fast: every sequence is seen `visits` times; AdamW, warm-up, cosine to zero, no decay."""

    visits: int
    batch_size: int
    rate: float
    seed: int = 0
    warmup_share: float = 0.05
    clip_norm: float = 1.0

    def steps(self, sequences: int) -> int:
        """Return the steps of a run; the last batch of a pass may be smaller."""
        return self.visits * ceil(sequences / self.batch_size)

    def factor(self, step: int, steps: int) -> float:
        """Return the rate's share at a step."""
        warmup = max(1, round(self.warmup_share * steps))
        if step < warmup:
            return (step + 1) / warmup
        return half_cosine((step - warmup) / max(1, steps - warmup))


def train(
    trainee: Trainee, rows: Int[Tensor, "sequence position"], start_token: int, course: Course
) -> Iterator[tuple[int, int]]:
    """Train on next tokens of whole sequences in a new order each pass; yield (step, steps) after each one.

    A start token is read before every sequence, so that all its tokens are predicted. Raises `InvalidRunError` where
    the loss is no number.
    """
    if not len(rows):
        raise BadInputError("a data set must have at least 1 sequence, got 0")
    steps, weights = course.steps(len(rows)), trainee.parameters()
    optimizer = torch.optim.AdamW(weights, lr=course.rate, betas=(0.9, 0.99), weight_decay=0.0)
    read = torch.cat([torch.full((len(rows), 1), start_token), rows.long()], dim=1)
    losses = ([_loss(trainee.model, batch)] for batch in _batches(read, course))
    rates = (course.rate * course.factor(step, steps) for step in range(steps))
    for step, (_, norm) in enumerate(descend(weights, optimizer, losses, rates, course.clip_norm), start=1):
        if not torch.isfinite(norm):
            raise InvalidRunError("diverged", "the loss or its gradient is no number: use a smaller rate")
        yield step, steps


def _batches(read: Int[Tensor, "sequence position"], course: Course) -> Iterator[Int[Tensor, "batch position"]]:
    shuffle = Generator().manual_seed(course.seed)
    for _ in range(course.visits):
        yield from read[torch.randperm(len(read), generator=shuffle)].split(course.batch_size)


def _loss(model: Any, batch: Int[Tensor, "batch position"]) -> Float[Tensor, ""]:
    batch = batch.to(model.device)
    hidden = model.model(input_ids=batch[:, :-1], use_cache=False).last_hidden_state
    return summed_cross_entropy(model.lm_head, hidden.flatten(0, 1), batch[:, 1:].flatten()) / batch[:, 1:].numel()
