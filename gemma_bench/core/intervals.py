"""Intervals from repeated samples: the figure that is judged is an interval's end, never a mean."""

from collections.abc import Sequence
from typing import NamedTuple


class Interval(NamedTuple):
    """A figure with the 95 % interval around it."""

    value: float
    low: float
    high: float

    def named(self, name: str, unit: str = "") -> dict[str, float]:
        """Return the figures under the names of a record's fields: `name_unit`, `name_low_unit`, `name_high_unit`."""
        names = (name, f"{name}_low", f"{name}_high")
        return dict(zip((f"{end}_{unit}" if unit else end for end in names), self, strict=True))


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


def proportion_interval(successes_count: int, count: int, *, confidence: float = 0.95) -> Interval:
    """Return a share with Wilson's interval, which has width where all or none succeeded."""
    from scipy.stats import binomtest

    found = binomtest(successes_count, count).proportion_ci(confidence, method="wilson")
    share = successes_count / count
    return Interval(share, min(float(found.low), share), max(float(found.high), share))


def ratio_interval(
    numerators: Sequence[float], denominators: Sequence[float], *, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Return the ratio of two sums over the same cases, with its percentile-bootstrap interval (10,000 resamples)."""
    import numpy as np

    above, below = np.asarray(numerators, dtype=float), np.asarray(denominators, dtype=float)
    random, ratio = np.random.default_rng(seed), float(above.sum() / below.sum())
    drawn = random.multinomial(len(above), np.full(len(above), 1 / len(above)), size=10_000)
    low, high = np.quantile((drawn @ above) / (drawn @ below), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(ratio, min(float(low), ratio), max(float(high), ratio))


def mean_interval(samples: Sequence[float], *, confidence: float = 0.95) -> Interval:
    """Return the mean with Student's interval: a bootstrap of a few seeds would be too narrow."""
    import numpy as np
    from scipy.stats import ttest_1samp

    if len(samples) < 2:  # noqa: PLR2004
        raise ValueError(f"an interval of means needs at least 2 samples, got {len(samples)}")
    mean = float(np.mean(samples))
    if np.ptp(samples) == 0:
        return Interval(mean, mean, mean)
    low, high = ttest_1samp(samples, 0).confidence_interval(confidence)
    return Interval(mean, float(low), float(high))
