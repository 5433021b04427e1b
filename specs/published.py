"""Published figures that specs compute with; the tables are beside this file, under `data/`."""

import csv
from pathlib import Path

from gemma_bench.claims import Measured
from gemma_bench.core.intervals import median_interval
from gemma_bench.core.known_machines import REPORTED_WORKING_SETS_GIB

_DATA = Path(__file__).parent / "data"

TEXT_PARAMETERS = {
    "270m": 268_098_176,
    "1b": 999_885_952,
    "4b": 3_880_099_328,
    "12b": 11_765_788_416,
    "27b": 27_009_002_240,
}
STUDY_SIZES = ("2b", "7b", "12b", "27b")
STUDY_MEMORY_GB = {"12b": 48, "27b": 108}
STUDY_WEIGHTS_BYTES = 6.8e9
STUDY_GAIN_OF_4_BITS = 2.7
STUDY_CACHE_12B_GB = (25.8, 12.9, 2.5)
"""At 32k tokens in bf16: every head its own keys, grouped queries, grouped queries and local windows."""


def table(name: str) -> list[dict[str, str]]:
    """Read one published table, a dict per row."""
    with (_DATA / f"{name}.csv").open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def report_cache_gb() -> dict[str, float]:
    """Return the KV cache that the report's Table 3 implies: weights and cache minus weights."""
    return {
        row["model"]: float(row["bf16_weights_and_cache_gb"]) - float(row["bf16_weights_gb"])
        for row in table("gemma3_report_table3")
    }


def working_set_percents() -> list[float]:
    """Return the share of memory that the GPU may use, for every Mac that someone reported."""
    return [100 * usable / memory for memory, usable in REPORTED_WORKING_SETS_GIB.items()]


def release_month(citation: str) -> int:
    """Return the month in an arXiv id: `arXiv:2503.19786v1` is of March 2025."""
    return int(citation.partition("arXiv:")[2][2:4])


def listed(figures: dict[str, int]) -> str:
    """Write figures by name: `270m 512, 1b 512`."""
    return ", ".join(f"{name} {figure:,}" for name, figure in figures.items())


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
