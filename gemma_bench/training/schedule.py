"""Learning rates as a share of the peak: functions of the step that `LambdaLR` takes."""

import math
from collections.abc import Callable

from gemma_bench.training.settings import Settings

Schedule = Callable[[int], float]


def half_cosine(done: float, floor: float = 0.0) -> float:
    """Return where half a cosine from 1 down to `floor` stands when a share `done` of the way is gone."""
    return floor + (1 - floor) * (1 + math.cos(math.pi * done)) / 2


def cosine(settings: Settings) -> Schedule:
    """Return the usual schedule: linear from 0 over the warm-up, then half a cosine down to the minimum."""
    warmup, floor = settings.warmup_steps, settings.min_rate_ratio
    decaying = max(settings.iters - warmup, 1)

    def share(step: int) -> float:
        if step < warmup:
            return step / warmup
        return half_cosine(min((step - warmup) / decaying, 1.0), floor)

    return share


def scaled(schedule: Schedule, factor: float) -> Schedule:
    """Multiply a schedule."""
    return lambda step: factor * schedule(step)
