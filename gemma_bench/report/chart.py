"""Charts as data, and as plain shapes in pixels: what the page draws and what is written as a file are the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from gemma_bench.core.intervals import Interval, mean_interval

WIDTH = 360
"""Pixels of every chart: as wide as a phone shows, so that labels can be read there."""

COLOURS_COUNT = 8


@dataclass(frozen=True)
class Path:
    """A line, an area or a mark; `kind` is its CSS classes."""

    tag: ClassVar[str] = "path"
    d: str
    kind: str
    title: str = ""


@dataclass(frozen=True)
class Rect:
    """A bar or a cell."""

    tag: ClassVar[str] = "rect"
    x: float
    y: float
    width: float
    height: float
    kind: str
    title: str = ""
    opacity: float = 1.0


@dataclass(frozen=True)
class Text:
    """A label; `anchor` is start, middle or end."""

    tag: ClassVar[str] = "text"
    x: float
    y: float
    text: str
    anchor: str = "start"
    kind: str = ""


Shape = Path | Rect | Text


@dataclass(frozen=True)
class Drawing:
    """A chart laid out."""

    title: str
    height: float
    shapes: tuple[Shape, ...]


@dataclass(frozen=True)
class Series:
    """Points from left to right, joined unless `is_dots`; with `low` and `high` there is an interval around each."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    is_dots: bool = False
    is_dashed: bool = False
    has_points: bool = True
    colour: int | None = None


@dataclass(frozen=True)
class Lines:
    """Series over one axis; `marks` are dotted lines across at a height, `uprights` at a place, with their names."""

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    x_is_log: bool = False
    y_is_log: bool = False
    from_zero: bool = False
    marks: Sequence[tuple[float, str]] = ()
    uprights: Sequence[tuple[float, str]] = ()


@dataclass(frozen=True)
class Bar:
    """A bar in parts, with what it comes to in words; `group` is a heading above the first bar of a group."""

    name: str
    parts: Sequence[float]
    total: str
    group: str = ""
    is_faint: bool = False


@dataclass(frozen=True)
class Bars:
    """Bars from the left, each of the same kinds of parts."""

    title: str
    label: str
    kinds: Sequence[str]
    bars: Sequence[Bar]


@dataclass(frozen=True)
class Dot:
    """A figure with its interval, in a row of its own; `samples` are shown as faint dots."""

    name: str
    value: float
    low: float
    high: float
    samples: Sequence[float] = ()


@dataclass(frozen=True)
class Dots:
    """Figures below one another on one axis; `mark` is where there is no effect, say."""

    title: str
    label: str
    dots: Sequence[Dot]
    mark: float | None = None


@dataclass(frozen=True)
class Cells:
    """A map: a shade from 0 to 1 and a text for each row and column."""

    title: str
    label: str
    rows: Sequence[str]
    columns: Sequence[str]
    shades: Sequence[Sequence[float]]
    texts: Sequence[Sequence[str]]


Chart = Lines | Bars | Dots | Cells


@dataclass(frozen=True)
class Picture:
    """What one experiment's records show: charts, one sentence on how to read them, and the records' names."""

    experiment: str
    question: str
    caption: str
    charts: tuple[Chart, ...]
    scale: str
    date: str
    records: tuple[str, ...]


def around(samples: Sequence[float]) -> Interval:
    """Return the mean over seeds and Student's interval; a single seed has no width."""
    if len(samples) > 1:
        return mean_interval(samples)
    return Interval(samples[0], samples[0], samples[0])
