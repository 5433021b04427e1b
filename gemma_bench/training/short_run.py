"""A training run that stays in memory: AdamW on a cosine, for small models and for minutes on a large device.

It can be bounded by time: the rate follows whichever of steps and seconds is farther along, so that it ends low.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gemma_bench.core.errors import BadInputError, InvalidRunError
from gemma_bench.core.files import Progress, silent
from gemma_bench.training.schedule import half_cosine

_FINAL_SHARE = 0.05
_LOOK_EVERY_STEPS = 20
_BETAS = (0.9, 0.98)
_WEIGHT_DECAY = 0.01


@dataclass(frozen=True)
class Schedule:
    """How long to train and at which rate; whichever of `steps` and `budget_s` is reached first ends the run."""

    steps: int
    learning_rate: float
    warmup_steps: int = 20
    budget_s: float = math.inf

    def __post_init__(self) -> None:
        """Refuse a run without steps or without a rate."""
        if self.steps < 1:
            raise BadInputError(f"steps must be at least 1, got {self.steps}")
        if not self.learning_rate > 0:
            raise BadInputError(f"learning rate must be above 0, got {self.learning_rate:g}")

    def rate(self, step: int, elapsed_s: float) -> float:
        """Return the learning rate of a step, from 0: linear warm-up, then a cosine down to 5 %."""
        done = min(1.0, max(step / self.steps, elapsed_s / self.budget_s))
        return self.learning_rate * half_cosine(done, _FINAL_SHARE) * min(1.0, (step + 1) / self.warmup_steps)


@dataclass(frozen=True)
class ShortRun:
    """What a run did; `losses_nats` are those of every twentieth step and the last."""

    steps_count: int
    duration_s: float
    losses_nats: tuple[float, ...]


def train(
    model: Any,
    losses_of: Callable[[int], Iterable[Tensor]],
    schedule: Schedule,
    what: str = "training",
    progress: Progress = silent,
) -> ShortRun:
    """Minimise, over the trainable parameters, the sum of the losses that a step yields, one backward pass for each.

    Raises `InvalidRunError` where the loss is no number any more.
    """
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    is_fused = weights[0].device.type == "cuda"  # never run until a record from such a machine exists
    optimizer = torch.optim.AdamW(weights, betas=_BETAS, weight_decay=_WEIGHT_DECAY, fused=is_fused)
    model.train()
    start, elapsed_s, seen = time.perf_counter(), 0.0, list[float]()
    losses = (losses_of(step) for step in range(schedule.steps))
    rates = (schedule.rate(step, elapsed_s) for step in range(schedule.steps))
    for step, (loss, _) in enumerate(descend(weights, optimizer, losses, rates, clip_norm=1.0)):
        if step % _LOOK_EVERY_STEPS == 0:
            seen.append(_checked(loss, step))  # waits for the device, which keeps the clock honest
            progress(what, step, schedule.steps)
        elapsed_s = time.perf_counter() - start
        if elapsed_s >= schedule.budget_s:
            break
    seen.append(_checked(loss, step))
    progress(what, schedule.steps, schedule.steps)
    model.eval()
    return ShortRun(step + 1, time.perf_counter() - start, tuple(seen))


def descend(
    weights: list[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    losses: Iterable[Iterable[Tensor]],
    rates: Iterable[float],
    clip_norm: float,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Take a step for each group of losses, at the rate of its place; yield their sum and the gradient's norm.

    A caller that stops has taken whole steps only; none is checked for being a number, which would wait for the device.
    """
    for parts, rate in zip(losses, rates, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = _accumulate(parts)
        norm = nn.utils.clip_grad_norm_(weights, clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        yield loss, norm


def _accumulate(losses: Iterable[Tensor]) -> Tensor:
    parts = []
    for loss in losses:
        torch.autograd.backward(loss)
        parts.append(loss.detach())
    return torch.stack(parts).sum()


def _checked(loss: Tensor, step: int) -> float:
    value = float(loss)
    if not math.isfinite(value):
        raise InvalidRunError("diverged", f"the loss of step {step} is {value}")
    return value
