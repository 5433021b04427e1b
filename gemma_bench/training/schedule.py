"""Learning rates as a share of the peak: functions of the step that `LambdaLR` takes."""

import math
from collections.abc import Callable

from gemma_bench.training.settings import Settings

Schedule = Callable[[int], float]


def cosine(settings: Settings) -> Schedule:
    """Return the usual schedule: linear from 0 over the warm-up, then half a cosine down to the minimum."""
    warmup, floor = settings.warmup_steps, settings.min_rate_ratio
    decaying = max(settings.iters - warmup, 1)

    def share(step: int) -> float:
        if step < warmup:
            return step / warmup
        progress = min((step - warmup) / decaying, 1.0)
        return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2

    return share


def scaled(schedule: Schedule, factor: float) -> Schedule:
    """Multiply a schedule."""
    return lambda step: factor * schedule(step)
