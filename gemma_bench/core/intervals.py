"""Intervals from repeated samples: the figure that is judged is an interval's end, never a mean."""

from collections.abc import Sequence
from typing import NamedTuple


class Interval(NamedTuple):
    """A figure with the 95 % interval around it."""

    value: float
    low: float
    high: float


def median_interval(samples: Sequence[float], *, confidence: float = 0.95, seed: int = 0) -> Interval:
    """Return the median and its percentile-bootstrap interval (10,000 resamples).

    Fewer than two samples, or samples that are all equal, give an interval without width.
    """
    import numpy as np
    from scipy.stats import bootstrap

    values = np.asarray(samples, dtype=float)
    if not len(values):
        raise ValueError("an interval needs at least 1 sample, got 0")
    median = float(np.median(values))
    if len(values) == 1 or np.ptp(values) == 0:
        return Interval(median, median, median)
    result = bootstrap(
        (values,), np.median, n_resamples=10_000, confidence_level=confidence, method="percentile", rng=seed
    ).confidence_interval
    low, high = np.clip(result, (values.min(), median), (median, values.max()))  # interpolation rounds past the ends
    return Interval(median, float(low), float(high))
