"""The page: a ledger with its evidence as one HTML file that loads nothing else and reads well without scripts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from gemma_bench.claims.claim import SCALES, Kind
from gemma_bench.claims.ledger import Ledger
from gemma_bench.claims.table import catches_text, measured_text
from gemma_bench.claims.verdict import Verdict
from gemma_bench.core.errors import DamagedFileError
from gemma_bench.core.files import write_text
from gemma_bench.core.records import BareRecord, read_record
from gemma_bench.core.units import GIB, number
from gemma_bench.report.chart import WIDTH, Picture
from gemma_bench.report.chart_layout import laid_out
from gemma_bench.report.interval_plot import PLOT_WIDTH, STRIP_HEIGHT, Strip, plot_of
from gemma_bench.report.page_pictures import Pictures, read_pictures
from gemma_bench.report.palette import FONT, GROUNDS, ON_PAGE
from gemma_bench.report.speed_tables import SpeedTables, read_speed_tables, weights_text
from gemma_bench.report.templates import templates

GLYPHS = {
    Verdict.HOLDS: "✓",
    Verdict.REFUTED: "✗",
    Verdict.INCONCLUSIVE: "≈",
    Verdict.INVALID: "⊘",
    Verdict.NOT_RUN: "○",
    Verdict.STALE: "↻",
    Verdict.BROKEN: "‼",
}


def read_records(ledger: Ledger, root: Path) -> dict[str, Mapping[str, Any] | str]:
    """Read the record files that a ledger names, relative to `root`; in place of one that cannot be read, say why."""
    records: dict[str, Mapping[str, Any] | str] = {}
    for name in filter(None, (entry.record for entry in ledger.claims)):
        try:
            records[name] = read_record(root / name, BareRecord).model_dump()
        except DamagedFileError as error:
            records[name] = str(error).replace(str(root / name), name)
    return records


_NO_SPEED, _NO_PICTURES = SpeedTables(), Pictures()


def render_page(
    ledger: Ledger,
    records: Mapping[str, Mapping[str, Any] | str],
    speed: SpeedTables = _NO_SPEED,
    pictures: Pictures = _NO_PICTURES,
) -> str:
    """Render a ledger; `records` maps the paths that it names to dumped records, or to why one cannot be read.

    An experiment's picture stands under the first headline that has a claim about its record, else at the end.
    """
    environment = templates()
    environment.filters |= {
        "number": number,
        "measured": measured_text,
        "catches": catches_text,
        "gib": _gib,
        "weights": weights_text,
    }
    environment.globals |= {"plot_of": plot_of, "strip_of": Strip.of, "laid_out": laid_out, "glyphs": GLYPHS}
    under = _under_headlines(ledger, pictures)
    placed = {picture.experiment for found in under.values() for picture in found}
    return environment.get_template("page.html.jinja").render(
        ledger=ledger,
        contradicted_count=sum(entry.is_contradicted for entry in ledger.claims),
        kinds=get_args(Kind),
        scales=SCALES,
        records=records,
        speed=speed,
        pictures=pictures,
        under=under,
        more=[picture for picture in pictures.pictures if picture.experiment not in placed],
        grounds=GROUNDS,
        colour=ON_PAGE,
        font=FONT,
        width=PLOT_WIDTH,
        chart_width=WIDTH,
        strip_height=STRIP_HEIGHT,
    )


def _under_headlines(ledger: Ledger, pictures: Pictures) -> dict[str, list[Picture]]:
    under: dict[str, list[Picture]] = {}
    placed = set[str]()
    for headline, entries in ledger.by_headline().items():
        named = {Path(entry.record).parent.name for entry in entries if entry.record} - placed
        under[headline] = pictures.of(named)
        placed |= named
    return under


def _gib(size_bytes: int) -> str:
    return f"{number(round(size_bytes / GIB, 1))} GiB"


def write_page(ledger: Ledger, root: Path, path: Path) -> Path:
    """Write the page, whole or not at all, with the records that the ledger names relative to the project's root."""
    write_text(path, render_page(ledger, read_records(ledger, root), read_speed_tables(root), read_pictures(root)))
    return path
