"""A training run that stays in memory: AdamW on a cosine, for small models and for minutes on a large device.

It can be bounded by time: the rate follows whichever of steps and seconds is farther along, so that it ends low. With
a file for its state, a run that was killed goes on where it last saved.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gemma_bench.core.errors import BadInputError, InvalidRunError
from gemma_bench.core.files import Progress, new_file, silent
from gemma_bench.training.schedule import half_cosine
from gemma_bench.training.torch_file import read_torch

_FINAL_SHARE = 0.05
_LOOK_EVERY_STEPS = 20
_SAVE_EVERY_S = 60
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
    """What a run did; `losses_nats` are those of every twentieth step and the last, seconds those of all its parts."""

    steps_count: int
    duration_s: float
    losses_nats: tuple[float, ...]


@dataclass(frozen=True)
class Keep:
    """Where a run keeps its state, every minute and at its end, and the generators that its losses draw from."""

    path: Path
    generators: Sequence[torch.Generator]

    def save(
        self, weights: Sequence[Tensor], optimizer: torch.optim.Optimizer, done: ShortRun, *, is_over: bool
    ) -> None:
        """Write the state, whole or not at all."""
        state = {
            "weights": [weight.detach() for weight in weights],
            "optimizer": optimizer.state_dict(),
            "generators": [generator.get_state() for generator in self.generators],
            "done": (done.steps_count, done.duration_s, list(done.losses_nats)),
            "is_over": is_over,
        }
        with new_file(self.path) as partial:
            torch.save(state, partial)

    def load(self, weights: Sequence[Tensor], optimizer: torch.optim.Optimizer) -> tuple[ShortRun, bool]:
        """Bring everything to where the run stopped; returns what it did by then and whether that was all."""
        state = read_torch(self.path, "state", "remove it to train that again")
        with torch.no_grad():
            for weight, saved in zip(weights, state["weights"], strict=True):
                weight.copy_(saved)
        optimizer.load_state_dict(state["optimizer"])
        for generator, saved in zip(self.generators, state["generators"], strict=True):
            generator.set_state(saved)
        steps, seconds, losses = state["done"]
        return ShortRun(steps, seconds, tuple(losses)), bool(state["is_over"])


def train(
    model: Any,
    losses_of: Callable[[int], Iterable[Tensor]],
    schedule: Schedule,
    what: str = "training",
    progress: Progress = silent,
    keep: Keep | None = None,
) -> ShortRun:
    """Minimise, over the trainable parameters, the sum of the losses that a step yields, one backward pass for each.

    With `keep` a run goes on from its last saved step, if there is one, and a finished one is only read back. Raises
    `InvalidRunError` where the loss is no number any more.
    """
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    is_fused = weights[0].device.type == "cuda"  # never run until a record from such a machine exists
    optimizer = torch.optim.AdamW(weights, betas=_BETAS, weight_decay=_WEIGHT_DECAY, fused=is_fused)
    done, is_over = ShortRun(0, 0.0, ()), False
    if keep is not None and keep.path.exists():
        done, is_over = keep.load(weights, optimizer)
    if not is_over:
        model.train()
        done = _go_on(weights, optimizer, losses_of, schedule, done, partial(progress, what), keep)
    progress(what, schedule.steps, schedule.steps)
    model.eval()
    return done


def _go_on(
    weights: list[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    losses_of: Callable[[int], Iterable[Tensor]],
    schedule: Schedule,
    done: ShortRun,
    progress: Callable[[int, int], None],
    keep: Keep | None,
) -> ShortRun:
    start, elapsed_s, seen = time.perf_counter() - done.duration_s, done.duration_s, list(done.losses_nats)
    saved_s, steps = elapsed_s, range(done.steps_count, schedule.steps)
    losses = (losses_of(step) for step in steps)
    rates = (schedule.rate(step, elapsed_s) for step in steps)
    for step, (loss, _) in enumerate(descend(weights, optimizer, losses, rates, clip_norm=1.0), steps.start):
        if step % _LOOK_EVERY_STEPS == 0:
            seen.append(_checked(loss, step))  # waits for the device, which keeps the clock honest
            progress(step, schedule.steps)
        elapsed_s = time.perf_counter() - start
        if elapsed_s >= schedule.budget_s:
            break
        if keep is not None and elapsed_s - saved_s >= _SAVE_EVERY_S and step + 1 < schedule.steps:
            keep.save(weights, optimizer, ShortRun(step + 1, elapsed_s, tuple(seen)), is_over=False)
            saved_s = elapsed_s
    seen.append(_checked(loss, step))
    done = ShortRun(step + 1, time.perf_counter() - start, tuple(seen))
    if keep is not None:
        keep.save(weights, optimizer, done, is_over=True)
    return done


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
