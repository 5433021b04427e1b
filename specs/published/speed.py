"""Published figures of chapter 2."""

from dataclasses import replace

from gemma_bench.claims import InvalidRunError, Measured
from gemma_bench.core.intervals import median_interval
from gemma_bench.core.known_machines import REPORTED_WORKING_SETS_GIB
from gemma_bench.experiments.study_table import Row
from gemma_bench.measure.validity import require_valid

STUDY_MEMORY_GB = {"12b": 48, "27b": 108}
STUDY_WEIGHTS_BYTES = 6.8e9
STUDY_GAIN_OF_4_BITS = 2.7


def working_set_percents() -> list[float]:
    """Return the share of memory that the GPU may use, for every Mac that someone reported."""
    return [100 * usable / memory for memory, usable in REPORTED_WORKING_SETS_GIB.items()]


class StudyTable:
    """The study's rows: measured on its machine, or as it states them; a row that broke a rule is no evidence."""

    def __init__(self, rows: dict[str, Row]) -> None:
        """Take decode rates in tok/s, broken rules and the peak of live memory in bytes, by row."""
        self.rows = rows

    def rate(self, name: str) -> Measured:
        """Return a row's median rate with its interval."""
        rates = self._valid(name).rates
        return Measured.within(median_interval(rates), "tok/s", rates)

    def ratio(self, fast: str, slow: str) -> Measured:
        """Return the ratio of two rows that were measured in turn, pair by pair."""
        rates = zip(self._valid(fast).rates, self._valid(slow).rates, strict=True)
        pairs = [one / other for one, other in rates]
        return Measured.within(median_interval(pairs), "×", pairs)

    def peak(self, name: str) -> Measured:
        """Return a row's peak of live memory."""
        peak_bytes = self._valid(name).peak_bytes
        if peak_bytes is None:
            raise InvalidRunError("not weighed", f"{name} was not told its peak of live memory")
        return Measured.exact(peak_bytes / 1e9, "GB")

    def _valid(self, name: str) -> Row:
        require_valid(self.rows[name].broken_rules)
        return self.rows[name]


def study_table() -> StudyTable:
    """Return the study's own table, each rate with a spread of half a percent."""
    stated = {
        "mlx 4-bit": 75.6,
        "mlx 16-bit": 28,
        "mps 16-bit": 14.95,
        "mlx 4-bit short": 75,
        "mlx 4-bit long": 75,
    }
    spread = (0.996, 1.0, 1.004, 0.998, 1.002)
    rows = {name: Row(tuple(rate * part for part in spread)) for name, rate in stated.items()}
    rows["mlx 4-bit"] = replace(rows["mlx 4-bit"], peak_bytes=6_800_000_000)
    return StudyTable(rows)
