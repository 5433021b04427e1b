"""Points of a capacity curve: random strings, one model trained on them, and the bits that it then holds."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite
from pathlib import Path

import numpy as np

from gemma_bench.core.errors import InvalidRunError
from gemma_bench.core.files import Progress, silent
from gemma_bench.experiments.sharing import share_out
from gemma_bench.measure.capacity import memory, uniform
from gemma_bench.training.stack.arms import Arm, Training
from gemma_bench.training.stack.shape import Shape
from gemma_bench.training.stack.train import Trained, train

_HELD_OUT_SEQUENCES = 256


@dataclass(frozen=True)
class Point:
    """`sequences` random strings, `ratio` bits of data for each parameter, and the model that is to learn them."""

    ratio: float
    sequences: int
    arm: Arm


@dataclass(frozen=True)
class Found:
    """What a point's model held in the end; bits are signed, `held_out_bits` is the control on strings it never saw."""

    point: Point
    steps: int
    saved_bits: float
    ceiling_bits: float
    held_out_bits: float
    diverged: str | None
    is_finished: bool

    @property
    def is_void(self) -> bool:
        """Tell whether the run is no evidence: it diverged or was stopped before its rate had come down."""
        return self.diverged is not None or not self.is_finished


def strings(shape: Shape, sequences: int, *seed: int) -> np.ndarray:
    """Draw uniform strings of length + 1 tokens, the first of which will be given."""
    drawn: np.ndarray = np.random.default_rng(seed).integers(shape.symbols, size=(sequences, shape.length + 1))
    return drawn


def measure_points(
    points: Sequence[Point],
    shape: Shape,
    training: Training,
    device: str = "cpu",
    workers: int = 1,
    progress: Progress = silent,
    state: Path | None = None,
    seconds: float | None = None,
) -> list[Found]:
    """Train all points as one stack, or on the CPU as one stack for each worker, and read what each model holds."""
    if workers <= 1 or device != "cpu" or len(points) <= workers:
        return _measure(points, shape, training, device, progress, state, seconds)
    measure = partial(_share, shape=shape, training=training, state=state, seconds=seconds)
    return share_out(measure, points, [point.arm.steps for point in points], workers, progress)


def _share(
    points: Sequence[Point],
    worker: int,
    progress: Progress,
    *,
    shape: Shape,
    training: Training,
    state: Path | None,
    seconds: float | None,
) -> list[Found]:
    folder = None if state is None else state / f"worker-{worker}"
    return _measure(points, shape, training, "cpu", progress, folder, seconds)


def _measure(
    points: Sequence[Point],
    shape: Shape,
    training: Training,
    device: str,
    progress: Progress,
    state: Path | None,
    seconds: float | None,
) -> list[Found]:
    data = [strings(shape, point.sequences, point.arm.seed, point.sequences) for point in points]
    arms = [point.arm for point in points]
    trained = train(shape, arms, data, training, device=device, progress=progress, state=state, seconds=seconds)
    return [_read(*each, shape, device) for each in zip(points, data, trained, strict=True)]


def _read(point: Point, data: np.ndarray, trained: Trained, shape: Shape, device: str) -> Found:
    score, reference = trained.scorer(shape, device), uniform(shape.symbols)
    fresh = strings(shape, _HELD_OUT_SEQUENCES, point.arm.seed, point.sequences, 1)
    try:
        held, control = memory(score, reference, [data]), memory(score, reference, [fresh])
    except InvalidRunError as error:
        return Found(point, trained.steps, 0.0, 0.0, 0.0, trained.diverged or str(error), trained.is_finished)
    figures = held.saved_bits, held.ceiling_bits, control.saved_bits
    diverged = trained.diverged or (None if all(map(isfinite, figures)) else "the bits are no number")
    return Found(point, trained.steps, *figures, diverged, trained.is_finished)
