"""A training run that stays in memory: AdamW on a cosine, for small models and for minutes on a large device.

It can be bounded by time: the rate follows whichever of steps and seconds is farther along, so that it ends low.
"""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gemma_bench.core.errors import BadInputError, InvalidRunError
from gemma_bench.core.files import Progress, silent

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
        cosine = _FINAL_SHARE + (1 - _FINAL_SHARE) * 0.5 * (1 + math.cos(math.pi * done))
        return self.learning_rate * cosine * min(1.0, (step + 1) / self.warmup_steps)


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
    start, seen = time.perf_counter(), list[float]()
    step, elapsed_s = 0, 0.0
    while step < schedule.steps and elapsed_s < schedule.budget_s:
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step, elapsed_s)
        loss = _accumulate(losses_of(step))
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % _LOOK_EVERY_STEPS == 0:
            seen.append(_checked(loss, step))  # waits for the device, which keeps the clock honest
            progress(what, step, schedule.steps)
        step, elapsed_s = step + 1, time.perf_counter() - start
    seen.append(_checked(loss, step - 1))
    progress(what, schedule.steps, schedule.steps)
    model.eval()
    return ShortRun(step, time.perf_counter() - start, tuple(seen))


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
