"""Two things measured in turn, A B B A: their ratio, its interval, and the smallest effect that could be seen."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from gemma_bench.core.errors import BadInputError
from gemma_bench.core.files import Progress, silent
from gemma_bench.core.intervals import Interval, median_interval

_LEAST_ROUNDS = 2

Figure = Callable[[], float]
"""Measures once and returns a positive figure: a rate, or seconds."""


@dataclass(frozen=True)
class Comparison:
    """A over B.

    `noise` is the same ratio of A to A and B to B, from the same rounds: it is 1 but for the machine's unrest, and half
    its interval's width is what a true difference must exceed to be seen. A drift is in it, which A B B A takes out of
    `ratio`, so it promises too little rather than too much.
    """

    ratio: Interval
    noise: Interval
    a: tuple[float, ...]
    b: tuple[float, ...]

    @property
    def smallest_effect_percent(self) -> float:
        """The smallest difference that this machine could have told from none in these rounds."""
        return _half_width_percent(self.noise)

    @property
    def can_be_told_apart(self) -> bool:
        """Whether the ratio's interval leaves 1 out and the difference exceeds the noise."""
        off_percent = 100 * abs(self.ratio.value - 1)
        return not self.ratio.low <= 1 <= self.ratio.high and off_percent > self.smallest_effect_percent


def by_round(figures: Sequence[float], over: Sequence[float]) -> list[float]:
    """Return the ratio of two figures in every round."""
    return [figure / other for figure, other in zip(figures, over, strict=True)]


def smallest_effect_percent(ratios: Sequence[float]) -> float | None:
    """Return how far one and the same ratio moved from round to round: less could not be told from nothing.

    `None` where there are too few rounds to tell.
    """
    if len(ratios) <= _LEAST_ROUNDS:
        return None
    moved = [after / before if turn % 2 else before / after for turn, (before, after) in enumerate(pairwise(ratios))]
    return _half_width_percent(median_interval(moved))


def _half_width_percent(noise: Interval) -> float:
    """Return half the width of a ratio's interval: what a true difference must exceed to be seen."""
    return 100 * (math.sqrt(noise.high / noise.low) - 1)


def compare(a: Figure, b: Figure, rounds: int = 10, progress: Progress = silent) -> Comparison:
    """Measure A B B A in every round, after one of each that is not counted; a steady drift cancels in the ratio."""
    if rounds < _LEAST_ROUNDS:
        raise BadInputError(f"rounds must be at least {_LEAST_ROUNDS}, got {rounds}")
    a()
    b()
    measured = []
    for done in range(rounds):
        measured.append((a(), b(), b(), a()))
        progress("comparing", done + 1, rounds)
    return compared(measured)


def compared(rounds: Sequence[tuple[float, float, float, float]]) -> Comparison:
    """Turn rounds of A B B A into a comparison."""
    ratios = [math.sqrt(a1 * a2 / (b1 * b2)) for a1, b1, b2, a2 in rounds]
    same = [math.sqrt(a1 * b2 / (a2 * b1)) for a1, b1, b2, a2 in rounds]
    return Comparison(
        ratio=median_interval(ratios),
        noise=median_interval([one if turn % 2 else 1 / one for turn, one in enumerate(same)]),
        a=tuple(figure for first, _, _, last in rounds for figure in (first, last)),
        b=tuple(figure for _, second, third, _ in rounds for figure in (second, third)),
    )
