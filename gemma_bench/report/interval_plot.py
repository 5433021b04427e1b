"""Geometry of the page's two plots, in pixels: an interval against what is allowed, and a run's samples."""

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, pairwise
from typing import Self

from gemma_bench.claims.ledger import Entry
from gemma_bench.claims.verdict import Allowed
from gemma_bench.core.units import number

PLOT_WIDTH = 300
STRIP_HEIGHT = 40
_DIGIT_WIDTH, _LABEL_GAP = 6.2, 10
_NARROWEST_BAND, _NARROWEST_CAPPED = 3.0, 12.0
_PADDING = 0.12
_NARROWEST_SPAN = 0.01
_LOG_FROM = 1000
_MOST_TICKS = 6


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis."""

    x: float
    label: str

    @property
    def reach(self) -> float:
        """Half of the label's width."""
        return len(self.label) * _DIGIT_WIDTH / 2

    @property
    def label_x(self) -> float:
        """The label's centre: at the mark, or moved inwards near an end."""
        return round(min(max(self.x, self.reach), PLOT_WIDTH - self.reach), 2)

    def is_clear_of(self, right: "Tick") -> bool:
        """Whether this label ends well before the next one to the right begins."""
        return self.label_x + self.reach + _LABEL_GAP <= right.label_x - right.reach


@dataclass(frozen=True)
class Axis:
    """A horizontal axis in pixels, logarithmic when its figures are positive and span more than three decades."""

    low: float
    high: float
    is_log: bool

    @classmethod
    def over(cls, figures: Sequence[float]) -> Self:
        """Span all figures with a margin at both ends, and something around them when they are all the same."""
        low, high = min(figures), max(figures)
        if low > 0 and high / low > _LOG_FROM:
            margin = (high / low) ** _PADDING
            tiniest, largest = sys.float_info.min, sys.float_info.max
            return cls(max(low / margin, tiniest), min(high * margin, largest), is_log=True)
        span = max(high - low, _NARROWEST_SPAN * max(abs(low), abs(high))) or 1.0
        middle, half = (low + high) / 2, span * (0.5 + _PADDING)
        return cls(middle - half, middle + half, is_log=False)

    def x(self, value: float) -> float:
        """Return where a figure lies, in pixels; what is beyond an end lies on it."""
        start, end = self._place(self.low), self._place(self.high)
        share = (self._place(value) - start) / (end - start)
        return round(PLOT_WIDTH * min(max(share, 0.0), 1.0), 2)

    def ticks(self) -> tuple[Tick, ...]:
        """Label as many round figures as fit without their labels touching; no label is rounded further."""
        for step in self._steps():
            exact = [value for value in self._multiples(step) if _prints_exactly(value, step)]
            ticks = tuple(Tick(self.x(value), number(value)) for value in exact)
            if all(left.is_clear_of(right) for left, right in pairwise(ticks)):
                return ticks
        raise AssertionError("steps grow without end")

    def _place(self, value: float) -> float:
        if not self.is_log:
            return value
        return math.log10(value) if value > 0 else -math.inf

    def _steps(self) -> Iterator[float]:
        """Yield 1, 2, 5, 10, … times a power of ten; on a logarithmic axis 1, 2, 3, … decades."""
        if self.is_log:
            yield from count(1)
        least = (self.high - self.low) / _MOST_TICKS
        for exponent in count(math.floor(math.log10(least))):
            yield from (step for step in (10.0**exponent, 2 * 10.0**exponent, 5 * 10.0**exponent) if step >= least)

    def _multiples(self, step: float) -> list[float]:
        start, end = self._place(self.low), self._place(self.high)
        multiples = [step * index for index in range(math.ceil(start / step), math.floor(end / step) + 1)]
        return [10.0**multiple for multiple in multiples] if self.is_log else multiples


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
