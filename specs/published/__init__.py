"""Published figures that specs compute with; a module per chapter, and the tables under `specs/data/`."""

import csv
from pathlib import Path

_DATA = Path(__file__).parents[1] / "data"


def table(name: str) -> list[dict[str, str]]:
    """Read one published table, a dict per row."""
    with (_DATA / f"{name}.csv").open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def listed(figures: dict[str, int]) -> str:
    """Write figures by name: `270m 512, 1b 512`."""
    return ", ".join(f"{name} {figure:,}" for name, figure in figures.items())
