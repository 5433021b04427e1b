"""What a measurement of one shape's capacity leaves behind."""

from collections.abc import Sequence
from math import sqrt
from statistics import median

from gemma_bench.core.errors import InvalidRunError
from gemma_bench.core.intervals import Interval
from gemma_bench.core.records import Record
from gemma_bench.experiments.capacity_points import Found


class CapacityRecord(Record):
    """One shape in one precision; `samples` are its capacities in bits per parameter, one per seed.

    Columns hold a figure per point: every data size with every seed, those that diverged left out. `saved_bits` may be
    negative. `capacity_bits` is the mean over seeds of the most that any data size made the model hold.
    `last_doubling_percent` is what twice the visits gained, at one data size.
    """

    row: str
    style: str
    layers_count: int
    width: int
    vocabulary_count: int
    length_tokens: int
    parameters_count: int
    embedding_share_percent: float
    device: str
    allows_tf32: bool
    rate: float
    probed_rates: tuple[float, ...]
    probed_bits_per_parameter: tuple[float | None, ...]
    planned_visits_count: int
    visits_count: float
    data_bits_per_parameter: tuple[float, ...]
    sequences_counts: tuple[int, ...]
    seeds: tuple[int, ...]
    saved_bits: tuple[float, ...]
    ceiling_bits: tuple[float, ...]
    held_out_bits: tuple[float, ...]
    capacity_bits: float
    capacity_bits_per_parameter: float
    capacity_low_bits_per_parameter: float
    capacity_high_bits_per_parameter: float
    last_doubling_percent: float | None
    earlier_doubling_percent: float | None
    diverged: tuple[str, ...]
    unfinished_count: int
    model_steps_count: int
    training_s: float

    def points(self) -> list[tuple[float, int, float, float]]:
        """Return data bits per parameter, seed, saved bits and the set's ceiling of every point."""
        columns = self.data_bits_per_parameter, self.seeds, self.saved_bits, self.ceiling_bits
        return list(zip(*columns, strict=True))

    def data_over_capacity(self) -> float:
        """Return how often the largest data exceed the capacity that was measured."""
        return max(self.data_bits_per_parameter) / self.capacity_bits_per_parameter


def capacities(points: Sequence[Found], parameters: int) -> list[float]:
    """Return per seed the most bits per parameter that any data size made the model hold."""
    seeds = sorted({found.point.arm.seed for found in points})
    return [max(f.saved_bits for f in points if f.point.arm.seed == seed) / parameters for seed in seeds]


def spread(samples: Sequence[float]) -> Interval:
    """Return the mean over seeds and the 95 % interval of Student's t around it; one seed has no width."""
    from scipy.stats import t

    mean = sum(samples) / len(samples)
    if len(samples) == 1:
        return Interval(mean, mean, mean)
    deviation = sqrt(sum((sample - mean) ** 2 for sample in samples) / (len(samples) - 1))
    half = float(t.ppf(0.975, len(samples) - 1)) * deviation / sqrt(len(samples))
    return Interval(mean, mean - half, mean + half)


def gain_percent(more: Sequence[Found], fewer: Sequence[Found]) -> float | None:
    """Return what twice the visits gained at one data size, the median over seeds that finished both."""
    before = {found.point.arm.seed: found.saved_bits for found in fewer if not found.is_void}
    pairs = [(f.saved_bits, before[f.point.arm.seed]) for f in more if not f.is_void and f.point.arm.seed in before]
    gains = [100 * (after / held - 1) for after, held in pairs if held > 0]
    return median(gains) if gains else None


def columns(points: Sequence[Found]) -> dict[str, tuple[float | int, ...]]:
    """Return the points that are evidence, column by column."""
    return {
        "data_bits_per_parameter": tuple(found.point.ratio for found in points),
        "sequences_counts": tuple(found.point.sequences for found in points),
        "seeds": tuple(found.point.arm.seed for found in points),
        "saved_bits": tuple(found.saved_bits for found in points),
        "ceiling_bits": tuple(found.ceiling_bits for found in points),
        "held_out_bits": tuple(found.held_out_bits for found in points),
    }


def evidence(points: Sequence[Found], row: str, full_ratio: float) -> list[Found]:
    """Return the points that neither diverged nor were stopped, of seeds with one at `full_ratio` or above.

    A seed of which only small data were learnt says nothing of capacity. Raises `InvalidRunError` where none is left.
    """
    sound = [found for found in points if not found.is_void]
    seeds = {found.point.arm.seed for found in sound if found.point.ratio >= full_ratio}
    if not seeds:
        reasons = sorted({found.diverged or "time ran out" for found in points if found.is_void})
        raise InvalidRunError("diverged", f"{row}: no run above capacity is evidence: {'; '.join(reasons)}")
    return [found for found in sound if found.point.arm.seed in seeds]
