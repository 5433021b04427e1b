"""The pictures of all experiments, drawn from their newest records: on the page, and as files."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from gemma_bench.core.errors import DamagedFileError, UnavailableError
from gemma_bench.core.files import write_text
from gemma_bench.core.records import BareRecord, clean_records, read_record
from gemma_bench.experiments.index import experiments
from gemma_bench.report import (
    capacity_charts,
    capacity_limit_charts,
    low_rank_charts,
    memory_charts,
    set_block_charts,
)
from gemma_bench.report.chart import WIDTH, Bars, Cells, Chart, Dots, Drawing, Lines, Picture
from gemma_bench.report.chart_layout import laid_out
from gemma_bench.report.palette import FONT, IN_FILES
from gemma_bench.report.templates import templates

_GAP, _MOST_COLUMNS = 30, 3


@dataclass(frozen=True)
class Kind:
    """How an experiment is drawn: its record's class, by name, what its charts are, and how to read them.

    Charts are drawn from the newest record of every configuration that was run at the scale of the newest of all,
    newest first. Where `row` names a field, it is the newest of each of its values, at any scale beyond the fixture.
    """

    record: str
    charts: Callable[[Sequence[Any]], Iterable[Chart]]
    caption: str
    row: str | None = None


_ARMS = Kind("ArmsRecord", low_rank_charts.arms_charts, low_rank_charts.CAPTION)
_BLOCKS = set_block_charts.decoding_charts, set_block_charts.CAPTION

KINDS: Mapping[str, Kind] = {
    "capacity_scaling": Kind("CapacityRecord", capacity_charts.scaling_charts, capacity_charts.SCALING, row="row"),
    "quantized_memory": Kind("QuantizedRecord", capacity_charts.rounding_charts, capacity_charts.ROUNDING),
    "layer_capacity": Kind("LayerRecord", capacity_charts.layer_charts, capacity_charts.LAYERS),
    "membership": Kind("MembershipRecord", capacity_limit_charts.membership_charts, capacity_limit_charts.MEMBERSHIP),
    "double_descent": Kind("DescentRecord", capacity_limit_charts.descent_charts, capacity_limit_charts.DESCENT),
    "fine_tune_memorization": Kind("FineTuneRecord", capacity_charts.fine_tune_charts, capacity_charts.FINE_TUNE),
    "low_rank_training": _ARMS,
    "relora_ablation": _ARMS,
    "rank_one_rules": _ARMS,
    "merge_frequency": Kind("ArmsRecord", low_rank_charts.interval_charts, low_rank_charts.CAPTION),
    "step_cost": Kind("StepRecord", memory_charts.step_charts, memory_charts.CAPTION, row="row"),
    "rank_one_cost": Kind("RankOneCostRecord", memory_charts.rule_charts, memory_charts.RULES),
    "set_block_time": Kind("TimeRecord", set_block_charts.time_charts, set_block_charts.TIME),
    "set_block_speedup": Kind("SetBlockRecord", *_BLOCKS, row="families"),
    "set_block_gemma": Kind("SetBlockGemmaRecord", *_BLOCKS),
}
"""A new picture is a line here and a function from records to charts; the class is found in the experiment's module."""


@dataclass(frozen=True)
class Pictures:
    """What could be drawn, and what is wrong with records that cannot be read."""

    pictures: tuple[Picture, ...] = ()
    problems: tuple[str, ...] = ()

    def of(self, names: Iterable[str]) -> list[Picture]:
        """Return the pictures of some experiments."""
        wanted = set(names)
        return [picture for picture in self.pictures if picture.experiment in wanted]


def read_pictures(root: Path) -> Pictures:
    """Draw every experiment that has clean records under a project's root."""
    pictures, problems = list[Picture](), list[str]()
    for experiment, kind in KINDS.items():
        try:
            pictures += _picture(root, experiment, kind)
        except (DamagedFileError, UnavailableError) as error:
            problems.append(str(error).replace(f"{root}/", ""))
    return Pictures(tuple(pictures), tuple(problems))


def _picture(root: Path, experiment: str, kind: Kind) -> Iterator[Picture]:
    newest = _newest(root / "results", experiment, of_all_scales=kind.row is not None)
    if not newest:
        return
    asked = experiments()[experiment]
    module = asked.module()
    current = {path: bare for path, bare in newest.items() if bare.experiment_version == module.VERSION}
    if not current:
        return
    rows: dict[Any, tuple[Path, Any]] = {}
    for path in current:
        record = read_record(path, getattr(module, kind.record))
        rows.setdefault(path if kind.row is None else getattr(record, kind.row), (path, record))
    records = [record for _, record in rows.values()]
    if not (charts := tuple(chart for chart in kind.charts(records) if _shows_something(chart))):
        return
    yield Picture(
        experiment,
        asked.question,
        kind.caption,
        charts,
        scale=", ".join(dict.fromkeys(record.scale for record in records)),
        date=records[0].date_utc[:10],
        records=tuple(path.relative_to(root).as_posix() for path, _ in rows.values()),
    )


def _shows_something(chart: Chart) -> bool:
    """Tell whether there is anything to draw: where every arm diverged there is no line."""
    contents = {Lines: "series", Bars: "bars", Dots: "dots", Cells: "rows"}
    return bool(getattr(chart, contents[type(chart)]))


def _newest(results: Path, experiment: str, *, of_all_scales: bool) -> dict[Path, BareRecord]:
    """Return the newest clean record of each configuration at the scale of the newest one, or of all but fixtures."""
    found: dict[str, tuple[Path, BareRecord]] = {}
    for path, bare in clean_records(results, experiment):
        found.setdefault(bare.config_json, (path, bare))
    scales = list(dict.fromkeys(bare.scale for _, bare in found.values()))
    wanted = scales[:1]
    if of_all_scales:
        wanted = [scale for scale in scales if scale != "fixture"] or wanted
    return {path: bare for path, bare in found.values() if bare.scale in wanted}


@dataclass(frozen=True)
class _Sheet:
    """A picture's charts on one sheet, side by side."""

    width: float
    height: float
    placed: Sequence[tuple[float, float, Drawing]]

    @classmethod
    def of(cls, picture: Picture) -> "_Sheet":
        drawings = [laid_out(chart) for chart in picture.charts]
        columns = min(_MOST_COLUMNS, len(drawings))
        rows = [drawings[start : start + columns] for start in range(0, len(drawings), columns)]
        heights = [max(drawing.height for drawing in row) + _GAP for row in rows]
        tops = list(accumulate(heights, initial=_GAP))
        placed = [
            (_GAP + place * (WIDTH + _GAP), top, drawing)
            for row, top in zip(rows, tops, strict=False)
            for place, drawing in enumerate(row)
        ]
        return cls(_GAP + columns * (WIDTH + _GAP), round(tops[-1], 1), placed)


def write_pictures(root: Path) -> Iterator[Path]:
    """Write `results/pictures/<experiment>.svg` for every experiment that has a clean record."""
    template = templates().get_template("picture.svg.jinja")
    for picture in read_pictures(root).pictures:
        path = root / "results" / "pictures" / f"{picture.experiment}.svg"
        text = template.render(picture=picture, sheet=_Sheet.of(picture), chart_width=WIDTH, font=FONT, colour=IN_FILES)
        write_text(path, text)
        yield path
