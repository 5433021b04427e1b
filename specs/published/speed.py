"""Published figures of chapter 2."""

from gemma_bench.claims import Measured
from gemma_bench.core.intervals import median_interval
from gemma_bench.core.known_machines import REPORTED_WORKING_SETS_GIB

STUDY_MEMORY_GB = {"12b": 48, "27b": 108}
STUDY_WEIGHTS_BYTES = 6.8e9
STUDY_GAIN_OF_4_BITS = 2.7


def working_set_percents() -> list[float]:
    """Return the share of memory that the GPU may use, for every Mac that someone reported."""
    return [100 * usable / memory for memory, usable in REPORTED_WORKING_SETS_GIB.items()]


class StudyTable:
    """Decode rates and peaks by row, as samples: measured on the study's machine, or as the study states them."""

    def __init__(self, rates: dict[str, list[float]], peak_bytes: dict[str, float]) -> None:
        """Take decode rates in tok/s and peaks of live memory in bytes."""
        self.rates, self.peak_bytes = rates, peak_bytes

    def rate(self, row: str) -> Measured:
        """Return a row's median rate with its interval."""
        return Measured.within(median_interval(self.rates[row]), "tok/s", self.rates[row])

    def ratio(self, fast: str, slow: str) -> Measured:
        """Return the ratio of two rows that were measured in turn, pair by pair."""
        pairs = [a / b for a, b in zip(self.rates[fast], self.rates[slow], strict=True)]
        return Measured.within(median_interval(pairs), "×", pairs)


def study_table() -> StudyTable:
    """Return the study's own table, each figure with a spread of half a percent."""
    stated = {
        "mlx 4-bit": 75.6,
        "mlx 16-bit": 28,
        "mps 16-bit": 14.95,
        "mlx 4-bit short": 75,
        "mlx 4-bit long": 75,
    }
    spread = (0.996, 1.0, 1.004, 0.998, 1.002)
    return StudyTable({row: [rate * part for part in spread] for row, rate in stated.items()}, {"mlx 4-bit": 6.8e9})
