"""`gemma-bench analyze capacity`: what a real size would hold if the slope of small models went on that far."""

from pathlib import Path
from typing import Annotated, Any

import typer

from gemma_bench.cli.console import Json, output, print_json
from gemma_bench.core.records import BareRecord, clean_records, read_record
from gemma_bench.core.units import gigabytes, number

PUBLISHED_BITS_PER_PARAMETER = 3.6
"""Morris et al., arXiv:2505.24832v3: models of 80 thousand to 20 million parameters, on random tokens."""

WARNING = (
    "An extrapolation, not a measurement: nobody has filled a model of this size. The published slope comes from "
    "models of 80 thousand to 20 million parameters trained on random tokens."
)


class MeasuredSlope(BareRecord):
    """What a record of `capacity_scaling` says of one shape."""

    parameters_count: int
    capacity_bits_per_parameter: float
    visits_count: float
    last_doubling_percent: float | None

    def told(self) -> str:
        """Say what was measured, and that it is a lower bound: each doubling of visits still gained."""
        percent = self.last_doubling_percent
        gain = "" if percent is None else f"; the last doubling gained {percent:.1f} %"
        return f"measured, {self.parameters_count:,} parameters, at least, after {self.visits_count:,.0f} visits{gain}"


def capacity(
    model: Annotated[str, typer.Argument(help="270m, 1b, 4b, 12b, 27b (-it for chat) or tiny.")],
    bits_per_parameter: Annotated[
        float, typer.Option("--bits-per-parameter", help="The slope to go on with.")
    ] = PUBLISHED_BITS_PER_PARAMETER,
    results: Annotated[Path, typer.Option("--results", help="The folder of the records.")] = Path("results"),
    json: Json = False,
) -> None:
    """Extrapolate how many bits a model could hold from the slopes that small models show, published and recorded."""
    from gemma_bench.measure.extrapolation import extrapolate
    from gemma_bench.models.weights import size_of

    size = size_of(model)
    found: dict[str, Any] = {"model": model, "parameters_count": size.parameter_count, "warning": WARNING}
    rows = {"published" if bits_per_parameter == PUBLISHED_BITS_PER_PARAMETER else "given": bits_per_parameter}
    measured = _largest_measured(results)
    if measured is not None:
        rows[measured.told()] = measured.capacity_bits_per_parameter
    found["slopes"] = [{"slope": name, **extrapolate(size, slope)} for name, slope in rows.items()]
    if json:
        print_json(found)
        return
    _show(found)


def _largest_measured(results: Path) -> MeasuredSlope | None:
    """Return the record of the largest shape that was measured in full precision, of several the newest."""
    records = (read_record(path, MeasuredSlope) for path, _ in clean_records(results, "capacity_scaling"))
    exact = [record for record in records if record.dtype == "float32"]
    return max(exact, key=lambda record: record.parameters_count, default=None)


def _show(found: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(title=f"{found['model']}, {found['parameters_count']:,} parameters, a tied head counted once")
    for column in ("slope", "bits per parameter", "holds", "in bytes", "random tokens of its vocabulary"):
        table.add_column(column, justify="left" if column == "slope" else "right")
    for row in found["slopes"]:
        table.add_row(
            row["slope"],
            number(row["slope_bits_per_parameter"]),
            _gigabits(row["capacity_bits"]),
            gigabytes(row["capacity_bits"] / 8),
            number(round(row["random_tokens"])),
        )
    output.print(table)
    output.print(found["warning"], highlight=False, soft_wrap=True)


def _gigabits(count: float) -> str:
    unit, scale = ("Gbit", 1e9) if count >= 1e9 else ("Mbit", 1e6)  # noqa: PLR2004
    return f"{count / scale:.3g} {unit}"
