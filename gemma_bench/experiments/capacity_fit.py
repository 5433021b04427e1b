"""Capacity against parameters: the slope of a line and the ratio through the origin, both with intervals."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from gemma_bench.core.intervals import Interval
from gemma_bench.core.records import Record, Subject
from gemma_bench.experiments.capacity_record import CapacityRecord

_RESAMPLES = 2000


class FitRecord(Record):
    """The fit over several sizes; `samples` are all capacities in bits per parameter, size by size, seed by seed.

    Intervals resample seeds within each size. What all seeds share, rates and visits, is not in them. Size by size,
    `last_doubling_percent` is what twice the visits gained and `data_over_capacity_ratio` is how often the largest data
    exceed capacity; records of earlier code have neither.
    """

    sizes_parameters_counts: tuple[int, ...]
    precisions: tuple[str, ...]
    slope_bits_per_parameter: float
    slope_low_bits_per_parameter: float
    slope_high_bits_per_parameter: float
    intercept_bits: float
    origin_bits_per_parameter: float
    origin_low_bits_per_parameter: float
    origin_high_bits_per_parameter: float
    smallest_bits_per_parameter: float
    largest_bits_per_parameter: float
    last_doubling_percent: tuple[float | None, ...] = ()
    data_over_capacity_ratio: tuple[float, ...] = ()


def fits(parameters: Sequence[int], capacities: Sequence[Sequence[float]]) -> tuple[Interval, float, Interval]:
    """Return the slope (bits per parameter), the intercept (bits) and the ratio through the origin."""
    counts = np.repeat(np.asarray(parameters, float), [len(each) for each in capacities])
    bits = counts * np.concatenate([np.asarray(each, float) for each in capacities])
    slope, intercept = np.polyfit(counts, bits, 1)
    origin = float(counts @ bits / (counts @ counts))
    draws, slopes, origins = np.random.default_rng(0), [], []
    starts = np.cumsum([0, *(len(each) for each in capacities)])
    for _ in range(_RESAMPLES):
        chosen = np.concatenate([draws.integers(a, b, b - a) for a, b in pairwise(starts)])
        x, y = counts[chosen], bits[chosen]
        slopes.append(np.polyfit(x, y, 1)[0])
        origins.append(x @ y / (x @ x))
    return _around(float(slope), slopes), float(intercept), _around(origin, origins)


def _around(value: float, resampled: Sequence[float]) -> Interval:
    low, high = np.quantile(resampled, (0.025, 0.975))
    return Interval(value, min(float(low), value), max(float(high), value))


def fit_record(rows: Sequence[CapacityRecord], config_json: str, scale: str, version: int) -> FitRecord:
    """Fit the rows that a run has measured."""
    counts = [row.parameters_count for row in rows]
    slope, intercept, origin = fits(counts, [row.samples for row in rows])
    found = [sample for row in rows for sample in row.samples]
    return FitRecord.measured(
        Subject(),
        experiment="capacity_fit",
        experiment_version=version,
        config_json=config_json,
        scale=scale,
        samples=tuple(found),
        sizes_parameters_counts=tuple(counts),
        precisions=tuple(str(row.dtype) for row in rows),
        **slope.named("slope", "bits_per_parameter"),
        intercept_bits=intercept,
        **origin.named("origin", "bits_per_parameter"),
        smallest_bits_per_parameter=min(found),
        largest_bits_per_parameter=max(found),
        last_doubling_percent=tuple(row.last_doubling_percent for row in rows),
        data_over_capacity_ratio=tuple(row.data_over_capacity() for row in rows),
    )
