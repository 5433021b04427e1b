"""Where everything of a chart goes, in pixels."""

import math
import textwrap
from collections.abc import Iterator, Sequence
from functools import singledispatch

from gemma_bench.core.units import number
from gemma_bench.report.chart import (
    COLOURS_COUNT,
    WIDTH,
    Bars,
    Cells,
    Dots,
    Drawing,
    Lines,
    Path,
    Rect,
    Series,
    Shape,
    Text,
)
from gemma_bench.report.interval_plot import LABEL_HEIGHT, Axis, text_width

_RIGHT, _FOOT, _PLOT = 10, 34, 170
_LINE, _ROW, _BAR = 15, 17, 11
_LOWEST, _PALEST = 9.0, 0.04
_TITLE_LETTERS = 50
_MARKS = ("M{x} {y}m-3 0a3 3 0 1 0 6 0a3 3 0 1 0 -6 0", "M{x} {y}m-3 -3h6v6h-6z", "M{x} {y}m0 -4l4 4l-4 4l-4 -4z",
          "M{x} {y}m0 -4l4 7h-8z")  # fmt: skip
"""A circle, a square, a diamond, a triangle: series can be told apart without colours."""


@singledispatch
def laid_out(chart: object) -> Drawing:
    """Lay a chart out."""
    raise TypeError(f"no layout for {type(chart).__name__}")


def _head(title: str, legend: Sequence[tuple[str, str]]) -> tuple[list[Shape], float]:
    """Return title and legend, entries of a kind and a name, and where the rest may begin."""
    shapes: list[Shape] = []
    y = 0.0
    for line in textwrap.wrap(title, _TITLE_LETTERS):
        y += _LINE
        shapes.append(Text(0, y, line, kind="title"))
    x = 0.0
    y += _LINE + 3
    for kind, name in legend:
        width = text_width(name) + 30
        if x and x + width > WIDTH:
            x, y = 0.0, y + _LINE
        shapes += [Path(f"M{x} {y - 4}h14", f"key {kind}"), Text(x + 18, y, name)]
        x += width
    return shapes, y + 8 if legend else y - _LINE + 5


@laid_out.register
def lines(chart: Lines) -> Drawing:
    """Lay out lines, their intervals as areas or bars behind them."""
    colours = [
        f"c{(place if one.colour is None else one.colour) % COLOURS_COUNT}" for place, one in enumerate(chart.series)
    ]
    legend = [
        (f"{colour}{' dashed' if one.is_dashed else ''}", one.name)
        for colour, one in zip(colours, chart.series, strict=True)
        if one.name
    ]
    shapes, top = _head(chart.title, legend)
    shapes.append(Text(0, top + 10, chart.y_label, kind="unit"))
    top += 18
    heights = [value for one in chart.series for column in (one.y, one.low, one.high) for value in column]
    heights += [height for height, _ in chart.marks] + ([0.0] if chart.from_zero else [])
    places = [value for one in chart.series for value in one.x] + [place for place, _ in chart.uprights]
    y_axis = Axis.over(heights, chart.y_is_log, 0.06, pixels=_PLOT, is_upright=True)
    left = 8 + max((text_width(tick.label) for tick in y_axis.ticks()), default=0)
    x_axis = Axis.over(places, chart.x_is_log, 0.04, pixels=WIDTH - left - _RIGHT)
    frame = _Frame(left, top, x_axis, y_axis)
    shapes += frame.grid(chart.x_label)
    for height, name in chart.marks:
        shapes += [
            Path(f"M{left} {frame.y(height)}h{x_axis.pixels}", "mark"),
            Text(left + 4, frame.y(height) - 3, name, kind="unit"),
        ]
    for place, name in chart.uprights:
        shapes += [
            Path(f"M{frame.x(place)} {top}v{_PLOT}", "mark"),
            Text(frame.x(place) + 4, top + 10, name, kind="unit"),
        ]
    for place, (colour, one) in enumerate(zip(colours, chart.series, strict=True)):
        shapes += frame.series(one, colour, _MARKS[(place + place // COLOURS_COUNT) % len(_MARKS)])
    return Drawing(chart.title, top + _PLOT + _FOOT, tuple(shapes))


class _Frame:
    """The plot's place and its two axes."""

    def __init__(self, left: float, top: float, x_axis: Axis, y_axis: Axis) -> None:
        self.left, self.top, self.x_axis, self.y_axis = left, top, x_axis, y_axis

    def x(self, value: float) -> float:
        return round(self.left + self.x_axis.x(value), 2)

    def y(self, value: float) -> float:
        return round(self.top + self.y_axis.pixels - self.y_axis.x(value), 2)

    def grid(self, label: str) -> Iterator[Shape]:
        """Yield the horizontal grid with its labels and the axis below."""
        for tick in self.y_axis.ticks():
            yield Path(f"M{self.left} {self.y_at(tick.x)}h{self.x_axis.pixels}", "grid")
            yield Text(self.left - 5, self.y_at(tick.label_x) + 4, tick.label, "end")
        yield from axis_below(self.x_axis, self.left, self.top + self.y_axis.pixels, label)

    def y_at(self, pixels: float) -> float:
        return round(self.top + self.y_axis.pixels - pixels, 2)

    def series(self, one: Series, colour: str, mark: str) -> Iterator[Shape]:
        """Yield a series: the interval, the line, the points, which say their figures."""
        at = [(self.x(x), self.y(y)) for x, y in zip(one.x, one.y, strict=True)]
        ends = [(x, self.y(low), self.y(high)) for (x, _), low, high in zip(at, one.low, one.high, strict=False)]
        if one.is_dots:
            yield from (Path(f"M{x} {low}V{high}", f"whisker {colour}") for x, low, high in ends)
        else:
            if ends:
                there = " L".join(f"{x} {low}" for x, low, _ in ends)
                back = " L".join(f"{x} {high}" for x, _, high in reversed(ends))
                yield Path(f"M{there} L{back}z", f"area {colour}")
            yield Path("M" + " L".join(f"{x} {y}" for x, y in at), f"line {colour}{' dashed' if one.is_dashed else ''}")
        for (x, y), across, up in zip(at, one.x, one.y, strict=True) if one.has_points else ():
            yield Path(
                mark.format(x=x, y=y),
                f"point {colour}",
                f"{one.name}: {number(up)} at {number(across)}".removeprefix(": "),
            )


def axis_below(axis: Axis, left: float, y: float, label: str) -> Iterator[Shape]:
    """Yield an axis with its ticks and what it is of."""
    yield Path(f"M{left} {y}h{axis.pixels}", "axis")
    for tick in axis.ticks():
        yield Path(f"M{round(left + tick.x, 2)} {y}v4", "axis")
        yield Text(round(left + tick.label_x, 2), y + 15, tick.label, "middle")
    yield Text(round(left + axis.pixels, 2), y + 29, label, "end", "unit")


@laid_out.register
def bars(chart: Bars) -> Drawing:
    """Lay out bars below one another, names at the left, totals behind."""
    legend = [(f"c{place} solid", kind) for place, kind in enumerate(chart.kinds)]
    shapes, y = _head(chart.title, legend)
    left = 8 + max(text_width(bar.name) for bar in chart.bars)
    room = 6 + max(text_width(bar.total) for bar in chart.bars)
    most = max(sum(bar.parts) for bar in chart.bars) or 1.0
    axis = Axis(0.0, most, is_log=False, pixels=WIDTH - left - room)
    for bar in chart.bars:
        if bar.group:
            y += _LINE
            shapes.append(Text(0, y, bar.group, kind="group"))
            y += 4
        x = left
        for place, (kind, part) in enumerate(zip(chart.kinds, bar.parts, strict=True)):
            width = round(axis.x(part), 2)
            if width:
                faint = " faint" if bar.is_faint else ""
                shapes.append(
                    Rect(
                        x, y, width, _BAR, f"part c{place}{faint}", f"{bar.name}, {kind}: {number(part)} {chart.label}"
                    )
                )
            x = round(x + width, 2)
        shapes += [Text(left - 6, y + _BAR - 2, bar.name, "end"), Text(x + 5, y + _BAR - 2, bar.total)]
        y += _ROW
    return Drawing(chart.title, y + 4, tuple(shapes))


@laid_out.register
def dots(chart: Dots) -> Drawing:
    """Lay out figures with their intervals below one another."""
    shapes, y = _head(chart.title, ())
    left = 10 + max(text_width(dot.name) for dot in chart.dots)
    figures = [value for dot in chart.dots for value in (dot.value, dot.low, dot.high, *dot.samples)]
    axis = Axis.over(
        [*figures, *([] if chart.mark is None else [chart.mark])], False, 0.04, pixels=WIDTH - left - _RIGHT
    )
    y += 6
    end = y + _ROW * len(chart.dots) + 4
    if chart.mark is not None:
        shapes.append(Path(f"M{round(left + axis.x(chart.mark), 2)} {y}V{end}", "mark"))
    for row, dot in enumerate(chart.dots):
        middle = y + _ROW * row + _ROW / 2
        at = [round(left + axis.x(value), 2) for value in (dot.low, dot.value, dot.high)]
        shapes.append(Text(left - 8, middle + 4, dot.name, "end"))
        shapes += [
            Path(_MARKS[0].format(x=round(left + axis.x(value), 2), y=middle), "sample c0") for value in dot.samples
        ]
        shapes.append(Path(f"M{at[0]} {middle}H{at[2]}", "whisker c0"))
        said = f"{dot.name}: {number(dot.value)} [{number(dot.low)}, {number(dot.high)}]"
        shapes.append(Path(_MARKS[0].format(x=at[1], y=middle), "point c0", said))
    shapes += axis_below(axis, left, end, chart.label)
    return Drawing(chart.title, end + _FOOT, tuple(shapes))


@laid_out.register
def cells(chart: Cells) -> Drawing:
    """Lay out a map; a shade is never so dark that its text could not be read."""
    shapes, y = _head(chart.title, ())
    left = 8 + max(text_width(row) for row in chart.rows)
    width = (WIDTH - left) / len(chart.columns)
    height = min(_ROW + 4.0, max(_ROW, width), max(_LOWEST, _PLOT / len(chart.rows)))
    y += 6
    every = math.ceil(LABEL_HEIGHT / height)
    for row, (name, shades, texts) in enumerate(zip(chart.rows, chart.shades, chart.texts, strict=True)):
        top = round(y + row * height, 2)
        if row % every == 0:
            shapes.append(Text(left - 6, round(top + height / 2 + 4, 2), name, "end"))
        for column, (shade, text) in enumerate(zip(shades, texts, strict=True)):
            x = round(left + column * width, 2)
            said = f"{name}, {chart.columns[column]}: {text}" if text else ""
            size = round(width - 1, 2), round(height - 1, 2)
            shapes.append(Rect(x, top, *size, "cell", said, round(_PALEST + 0.5 * shade, 3)))
            if text and text_width(text) <= width and height >= LABEL_HEIGHT:
                shapes.append(Text(round(x + width / 2, 2), round(top + height / 2 + 4, 2), text, "middle", "in-cell"))
    y = round(y + height * len(chart.rows), 2)
    every = math.ceil((max(text_width(name) for name in chart.columns) + 6) / width)
    for column, name in list(enumerate(chart.columns))[::every]:
        shapes.append(Text(round(left + (column + 0.5) * width, 2), y + LABEL_HEIGHT, name, "middle"))
    shapes.append(Text(WIDTH, y + 2 * LABEL_HEIGHT + 2, chart.label, "end", "unit"))
    return Drawing(chart.title, y + 30, tuple(shapes))
