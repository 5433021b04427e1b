"""Training many tiny models at once, each on its own data, at its own rate and for its own number of steps."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gemma_bench.core.errors import BadInputError
from gemma_bench.core.files import Progress, silent
from gemma_bench.training.stack.arms import Arm, Training, Visits, scales
from gemma_bench.training.stack.blocks import token_nats
from gemma_bench.training.stack.divergence import divergence
from gemma_bench.training.stack.room import check_room
from gemma_bench.training.stack.saved import fingerprint, load, save
from gemma_bench.training.stack.shape import Shape, random_weights
from gemma_bench.training.stack.stepper import Stepper, no_denormals, one_thread, operations, rounding

_PARTS = 50
_LEAST_STEPS, _MOST_STEPS = 8, 256
_SAVE_EVERY_S = 30.0
_OVERTIME, _PLANNED_SHARE = 1.4, 0.9
_TIMED_STEPS = 8
_SCORED_SEQUENCES = 256


@dataclass(frozen=True)
class Trained:
    """One model after its training.

    `curve` holds mean losses in nats of successive parts of the run, `diverged` says why the model is no evidence, and
    `steps` is fewer than the arm's where `seconds` cut the plan. A model is not `is_finished` where time ran out first.
    """

    arm: Arm
    weights: Tensor
    curve: tuple[float, ...]
    steps: int
    is_finished: bool
    diverged: str | None

    def scorer(self, shape: Shape, device: str = "cpu") -> Callable[[np.ndarray], np.ndarray]:
        """Return what every token but the first costs in sequences of tokens, in nats, computed in float32."""
        weights = self.weights.float().to(device)[None]

        @torch.inference_mode()
        def score(tokens: np.ndarray) -> np.ndarray:
            parts = torch.from_numpy(np.asarray(tokens, np.int64)).to(device).split(_SCORED_SEQUENCES)
            with rounding(Training()):
                costs = [token_nats(weights, part[None], shape, operations(device, "float32"))[0] for part in parts]
            nats: np.ndarray = torch.cat(costs).double().cpu().numpy()
            return nats

        return score


def train(
    shape: Shape,
    arms: Sequence[Arm],
    data: Sequence[np.ndarray],
    training: Training,
    *,
    device: str = "cpu",
    progress: Progress = silent,
    state: Path | None = None,
    seconds: float | None = None,
) -> tuple[Trained, ...]:
    """Train one model per arm on its data, sequences of length + 1 tokens of which the first is given.

    With `state`, a killed run goes on from that folder to the same bits. With `seconds`, all plans are cut by one
    factor so that the whole takes about that long. Raises `UnavailableError("memory")` for a stack that has no room.
    """
    _check(shape, arms, data, training)
    check_room(len(arms), shape, training, device)
    order = sorted(range(len(arms)), key=lambda place: -arms[place].steps)
    with one_thread(), no_denormals(), rounding(training):
        run = _Run(shape, [arms[place] for place in order], [data[place] for place in order], training, device, state)
        trained = run.finish(progress, seconds)
    return tuple(found for _, found in sorted(zip(order, trained, strict=True), key=lambda pair: pair[0]))


def _check(shape: Shape, arms: Sequence[Arm], data: Sequence[np.ndarray], training: Training) -> None:
    training.check()
    if not arms or len(arms) != len(data):
        raise BadInputError(f"every arm needs its data, got {len(arms)} arms and {len(data)} data sets")
    for arm, sequences in zip(arms, data, strict=True):
        arm.check()
        if not len(sequences) or sequences.shape[1] != shape.length + 1:
            raise BadInputError(
                f"data must be at least 1 sequence of {shape.length + 1} tokens, got {list(sequences.shape)}"
            )
        if sequences.min() < 0 or sequences.max() >= shape.symbols:
            raise BadInputError(f"tokens must be between 0 and {shape.symbols - 1}, got {sequences.max()}")


class _Run:
    """A stack in training: arms in falling order of their steps, so that those still running are the first rows."""

    def __init__(
        self,
        shape: Shape,
        arms: Sequence[Arm],
        data: Sequence[np.ndarray],
        training: Training,
        device: str,
        state: Path | None,
    ) -> None:
        weights = torch.stack([random_weights(shape, arm.seed) for arm in arms])
        self.shape, self.arms, self.training, self.device = shape, list(arms), training, device
        sequences = torch.cat([torch.from_numpy(np.asarray(part, np.int64)) for part in data])
        self.stepper = Stepper(shape, training, weights, sequences, device, _trained_mask(shape, arms))
        self._starts = np.cumsum([0, *(len(part) for part in data)])
        self._visits = [Visits(len(part), arm.seed) for part, arm in zip(data, arms, strict=True)]
        self._folder, self._key = state, fingerprint(shape, arms, training, tensors=[sequences])
        self.done, self.curves = 0, [[] for _ in arms]  # type: tuple[int, list[list[float]]]
        self._resume()

    def finish(self, progress: Progress, seconds: float | None) -> list[Trained]:
        """Train to the end, or until time runs out."""
        began = saved = time.monotonic()
        if seconds is not None and self.done == 0:
            self._cut(seconds)
        total = max(arm.steps for arm in self.arms)
        while self.done < total and (seconds is None or time.monotonic() - began < _OVERTIME * seconds):
            self.part(min(max(_LEAST_STEPS, total // _PARTS), _MOST_STEPS))
            progress("training", self.done, total)
            if self._folder is not None and (time.monotonic() - saved > _SAVE_EVERY_S or self.done == total):
                self._save(self._folder)
                saved = time.monotonic()
        return [self._trained(place) for place in range(len(self.arms))]

    def part(self, steps: int) -> None:
        """Take some steps, at most until the next arm has had all of its own."""
        active = sum(arm.steps > self.done for arm in self.arms)
        steps = min(steps, self.arms[active - 1].steps - self.done)
        losses = self._losses(active, steps)
        for curve, loss in zip(self.curves, losses.float().mean(0).tolist(), strict=False):
            curve.append(loss)
        self.done += steps

    def _losses(self, active: int, steps: int) -> Tensor:
        rates = scales(self.arms[:active], self.training, self.done, steps).to(self.device)
        return self.stepper.run(self._chosen(active, steps), rates)

    def _chosen(self, active: int, steps: int) -> Tensor:
        """Return the rows of all data that the next steps visit, `step model sequence`."""
        batch = self.training.batch
        chosen = [
            self._starts[place] + self._visits[place].take(self.done * batch, steps * batch).reshape(steps, batch)
            for place in range(active)
        ]
        return torch.from_numpy(np.stack(chosen, 1)).to(self.device)

    def _cut(self, seconds: float) -> None:
        """Time a few steps of the whole stack and of one model, undo them, and shorten all arms where need be."""
        kept = [tensor.clone() for tensor in self._tensors()]
        models = len(self.arms)
        whole, one = self._step_s(models), self._step_s(1)
        for tensor, before in zip(self._tensors(), kept, strict=True):
            tensor.copy_(before)
        each = max(0.0, whole - one) / max(1, models - 1)
        launching = max(0.0, one - each)
        planned_s = launching * self.arms[0].steps + each * sum(arm.steps for arm in self.arms)
        share = _PLANNED_SHARE * seconds / planned_s
        if share < 1:
            self.arms = [replace(arm, steps=max(1, int(arm.steps * share))) for arm in self.arms]

    def _step_s(self, active: int) -> float:
        """Time a step of the first models; the first steps warm up."""
        for _ in range(2):
            began = time.perf_counter()
            self._losses(active, _TIMED_STEPS).sum().item()
        return (time.perf_counter() - began) / _TIMED_STEPS

    def _tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.stepper.weights, self.stepper.first, self.stepper.second

    def _resume(self) -> None:
        state: dict[str, Any] | None = None if self._folder is None else load(self._folder, self._key)
        if state is None:
            return
        self.done, self.curves = state["done"], state["curves"]
        self.arms = [replace(arm, steps=steps) for arm, steps in zip(self.arms, state["steps"], strict=True)]
        for tensor, before in zip(self._tensors(), state["tensors"], strict=True):
            tensor.copy_(before)

    def _save(self, folder: Path) -> None:
        tensors = [tensor.cpu() for tensor in self._tensors()]
        steps = [arm.steps for arm in self.arms]
        save(folder, self._key, {"done": self.done, "curves": self.curves, "steps": steps, "tensors": tensors})

    def _trained(self, place: int) -> Trained:
        arm, curve = self.arms[place], self.curves[place]
        return Trained(
            arm=arm,
            weights=self.stepper.weights[place].cpu(),
            curve=tuple(curve),
            steps=min(arm.steps, self.done),
            is_finished=self.done >= arm.steps,
            diverged=divergence(curve, log(self.shape.symbols)),
        )


def _trained_mask(shape: Shape, arms: Sequence[Arm]) -> Tensor | None:
    """Return 1 for what is trained and 0 for what is frozen, per arm, or `None` if nothing is."""
    if not any(arm.frozen for arm in arms):
        return None
    sizes = {name: int(np.prod(size)) for name, size in shape.tensors.items()}
    rows = [
        torch.cat([torch.full((size,), float(not name.startswith(arm.frozen))) for name, size in sizes.items()])
        for arm in arms
    ]
    return torch.stack(rows)
