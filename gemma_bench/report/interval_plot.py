"""Geometry of the page's two plots, in pixels: an interval against what is allowed, and a run's samples."""

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, pairwise
from typing import Any, Self

from gemma_bench.claims.ledger import Entry
from gemma_bench.claims.verdict import Allowed
from gemma_bench.core.units import number

PLOT_WIDTH = 300
STRIP_HEIGHT = 40
LABEL_HEIGHT = 12
_DIGIT_WIDTH, _LABEL_GAP = 6.2, 10
_NARROWEST_BAND, _NARROWEST_CAPPED = 3.0, 12.0
_PADDING = 0.12
_NARROWEST_SPAN, _NARROWEST_MARGIN = 0.01, 1.1
_LOG_FROM = 1000
_MOST_TICKS = 6


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis; on an upright one labels take their height."""

    x: float
    label: str
    pixels: float = PLOT_WIDTH
    is_upright: bool = False

    @property
    def reach(self) -> float:
        """Half of the label's width, or height."""
        return LABEL_HEIGHT / 2 if self.is_upright else text_width(self.label) / 2

    @property
    def label_x(self) -> float:
        """The label's centre: at the mark, or moved inwards near an end."""
        return round(min(max(self.x, self.reach), self.pixels - self.reach), 2)

    def is_clear_of(self, right: "Tick") -> bool:
        """Whether this label ends well before the next one to the right begins."""
        return self.label_x + self.reach + _LABEL_GAP <= right.label_x - right.reach


def text_width(text: str) -> float:
    """Return about how many pixels a label is wide; letters are about as wide as digits."""
    return len(text) * _DIGIT_WIDTH


@dataclass(frozen=True)
class Axis:
    """An axis in pixels, logarithmic when its figures are positive and span more than three decades, or as asked."""

    low: float
    high: float
    is_log: bool
    pixels: float = PLOT_WIDTH
    is_upright: bool = False

    @classmethod
    def over(cls, figures: Sequence[float], is_log: bool | None = None, padding: float = _PADDING, **more: Any) -> Self:
        """Span all figures with a margin at both ends, and something around them when they are all the same."""
        low, high = min(figures), max(figures)
        if low > 0 and (high / low > _LOG_FROM if is_log is None else is_log):
            margin = max((high / low) ** padding, _NARROWEST_MARGIN)
            tiniest, largest = sys.float_info.min, sys.float_info.max
            return cls(max(low / margin, tiniest), min(high * margin, largest), True, **more)
        span = max(high - low, _NARROWEST_SPAN * max(abs(low), abs(high))) or 1.0
        middle, half = (low + high) / 2, span * (0.5 + padding)
        return cls(middle - half, middle + half, False, **more)

    def x(self, value: float) -> float:
        """Return where a figure lies, in pixels; what is beyond an end lies on it."""
        start, end = self._place(self.low), self._place(self.high)
        share = (self._place(value) - start) / (end - start)
        return round(self.pixels * min(max(share, 0.0), 1.0), 2)

    def ticks(self) -> tuple[Tick, ...]:
        """Label as many round figures as fit without their labels touching; no label is rounded further."""
        for figures in self._candidates():
            ticks = tuple(Tick(self.x(value), number(value), self.pixels, self.is_upright) for value in figures)
            if all(left.is_clear_of(right) for left, right in pairwise(ticks)):
                return ticks
        raise AssertionError("steps grow without end")

    def _place(self, value: float) -> float:
        if not self.is_log:
            return value
        return math.log10(value) if value > 0 else -math.inf

    def _candidates(self) -> Iterator[list[float]]:
        """Yield ever fewer figures: 1, 2, 5, 10, … times a power of ten; on a logarithmic axis then decades alone."""
        if self.is_log:
            low, high = (
                math.floor(math.log10(self.low)),
                min(math.ceil(math.log10(self.high)), sys.float_info.max_10_exp),
            )
            powers = [10.0**exponent for exponent in range(low, high + 1)]
            rounds = [lead * power for power in powers for lead in (1, 2, 5) if self.low <= lead * power <= self.high]
            if len(rounds) > 1:
                yield rounds
                for every in count(1):
                    yield [power for power in powers[-low % every :: every] if self.low <= power <= self.high]
        least = (self.high - self.low) / _MOST_TICKS
        for exponent in count(math.floor(math.log10(least))):
            for step in (10.0**exponent, 2 * 10.0**exponent, 5 * 10.0**exponent):
                multiples = (step * i for i in range(math.ceil(self.low / step), math.floor(self.high / step) + 1))
                if step >= least:
                    yield [value for value in multiples if _prints_exactly(value, step)]


def _prints_exactly(value: float, step: float) -> bool:
    return abs(float(number(value).replace(",", "")) - value) <= step / 100


@dataclass(frozen=True)
class Plot:
    """A measured interval against the allowed range, in pixels; the band is never too thin to be seen."""

    axis: Axis
    low_x: float
    point_x: float
    high_x: float
    band: tuple[float, float] | None
    edges: tuple[float, ...]

    @property
    def has_caps(self) -> bool:
        """Whether the interval is wide enough for its ends to show beside the point."""
        return self.high_x - self.low_x >= _NARROWEST_CAPPED


def plot_of(entry: Entry) -> Plot | None:
    """Lay out a claim's figure, if it has one."""
    measured = entry.measured
    if measured is None:
        return None
    figures = (measured.low, measured.value, measured.high)
    ends = entry.allowed.edges if entry.allowed else ()
    axis = Axis.over([*figures, *ends])
    edges = tuple(dict.fromkeys(map(axis.x, ends)))
    band = _band(axis, entry.allowed) if entry.allowed else None
    low_x, point_x, high_x = map(axis.x, figures)
    return Plot(axis, low_x, point_x, high_x, band, edges)


def _band(axis: Axis, allowed: Allowed) -> tuple[float, float]:
    left = 0.0 if allowed.low is None else axis.x(allowed.low)
    right = float(PLOT_WIDTH) if allowed.high is None else axis.x(allowed.high)
    if right - left >= _NARROWEST_BAND:
        return left, right
    middle = (left + right) / 2
    return round(middle - _NARROWEST_BAND / 2, 2), round(middle + _NARROWEST_BAND / 2, 2)


@dataclass(frozen=True)
class Strip:
    """The samples of a run, first at the top: a slant is a drift."""

    axis: Axis
    path: str

    @classmethod
    def of(cls, samples: Sequence[float]) -> Self:
        """Place every sample as a dot of one SVG path."""
        axis, last = Axis.over(samples), max(len(samples) - 1, 1)
        ys = (round(4 + (STRIP_HEIGHT - 8) * index / last, 2) for index in range(len(samples)))
        return cls(axis, "".join(f"M{axis.x(sample)} {y}h0" for sample, y in zip(samples, ys, strict=True)))
