"""From a measured interval and what the claim allows to a verdict. Nothing here knows what was measured."""

import math
from collections.abc import Sequence
from enum import StrEnum
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from gemma_bench.core.intervals import Interval
from gemma_bench.core.units import number


class Verdict(StrEnum):
    """What the evidence found on this machine says about a claim."""

    HOLDS = "holds"
    REFUTED = "refuted"
    INCONCLUSIVE = "inconclusive"
    INVALID = "invalid"
    NOT_RUN = "not run"
    STALE = "stale"
    BROKEN = "broken"

    @property
    def is_decided(self) -> bool:
        """Whether the evidence settles the claim, either way."""
        return self in (Verdict.HOLDS, Verdict.REFUTED)

    @property
    def is_open(self) -> bool:
        """Whether there is evidence, and it does not settle the claim."""
        return self in (Verdict.INCONCLUSIVE, Verdict.INVALID, Verdict.STALE)


class Measured(BaseModel):
    """One figure with the interval that it is known to; an exact figure's interval has no width.

    Where the interval does not come from repetitions alone, `narrowed_by` names what would narrow it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    value: float
    low: float
    high: float
    unit: str = Field(min_length=1)
    samples: tuple[float, ...] = ()
    narrowed_by: str = Field(default="", exclude=True)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low <= self.value <= self.high:
            raise ValueError(f"an interval must hold its value, got {self.low} ≤ {self.value} ≤ {self.high}")
        return self

    @classmethod
    def exact(cls, value: float, unit: str) -> Self:
        """Wrap a figure that was counted or computed, not sampled."""
        return cls(value=value, low=value, high=value, unit=unit)

    @classmethod
    def within(cls, interval: Interval, unit: str, samples: Sequence[float] = ()) -> Self:
        """Wrap a figure with its interval and the samples it came from."""
        return cls(value=interval.value, low=interval.low, high=interval.high, unit=unit, samples=tuple(samples))

    def __str__(self) -> str:
        """Write the figure with its interval, if it has width, and its unit."""
        spread = "" if self.low == self.high else f" [{number(self.low)}, {number(self.high)}]"
        return f"{number(self.value)}{spread} {self.unit}"


class Allowed(BaseModel):
    """The figures under which a claim is true, both ends included, in the unit that is measured; `None` is no end."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    low: float | None = None
    high: float | None = None

    @model_validator(mode="after")
    def _excludes_something(self) -> Self:
        if self.low is None and self.high is None:
            raise ValueError("a check that allows anything cannot fail: give a low or a high end")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"the low end must not be above the high end, got {self.low} … {self.high}")
        return self

    def __str__(self) -> str:
        """Write the range as a reader would: `= 512`, `≥ 75`, `≤ 0.0001`, `6.46 … 7.14`."""
        if self.low is None:
            return f"≤ {number(self.high)}" if self.high is not None else ""
        if self.high is None:
            return f"≥ {number(self.low)}"
        return f"= {number(self.low)}" if self.low == self.high else f"{number(self.low)} … {number(self.high)}"

    @property
    def edges(self) -> tuple[float, ...]:
        """The ends that there are."""
        return tuple(end for end in (self.low, self.high) if end is not None)

    def holds(self, figure: float) -> bool:
        """Tell whether a figure is allowed."""
        return (self.low is None or self.low <= figure) and (self.high is None or figure <= self.high)


def at_least(limit: float) -> Allowed:
    """Allow `limit` and above."""
    return Allowed(low=limit)


def at_most(limit: float) -> Allowed:
    """Allow `limit` and below."""
    return Allowed(high=limit)


def exactly(figure: float) -> Allowed:
    """Allow one figure."""
    return Allowed(low=figure, high=figure)


def between(low: float, high: float) -> Allowed:
    """Allow a range, both ends included."""
    return Allowed(low=low, high=high)


def within_percent(figure: float, percent: float) -> Allowed:
    """Allow a figure and `percent` of it to both sides."""
    margin = abs(figure) * percent / 100
    return Allowed(low=figure - margin, high=figure + margin)


class Judgement(BaseModel):
    """A verdict with what it rests on; `record` names the file of a recorded claim's evidence."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    verdict: Verdict
    measured: Measured | None = None
    allowed: Allowed | None = None
    reason: str = ""
    record: str | None = None


def decide(measured: Measured, allowed: Allowed, reason: str = "") -> Judgement:
    """Judge an interval's ends: inside what is allowed, outside it, or across its edge."""
    if allowed.holds(measured.low) and allowed.holds(measured.high):
        verdict = Verdict.HOLDS
    elif any(measured.low <= edge <= measured.high for edge in allowed.edges):
        verdict = Verdict.INCONCLUSIVE
        reason = "; ".join(filter(None, [reason, _what_would_settle(measured, allowed)]))
    else:
        verdict = Verdict.REFUTED
    return Judgement(verdict=verdict, measured=measured, allowed=allowed, reason=reason)


def _what_would_settle(measured: Measured, allowed: Allowed) -> str:
    """Say what would settle it: repetitions, if intervals shrink with the root of their number, or what is named."""
    if measured.narrowed_by:
        return f"the interval straddles the threshold; not more repetitions but {measured.narrowed_by} may settle it"
    count = len(measured.samples)
    distance = min(abs(measured.value - edge) for edge in allowed.edges if measured.low <= edge <= measured.high)
    if not count or not distance:
        return "the interval straddles the threshold and more repetitions may not settle it"
    half_width = max(measured.high - measured.value, measured.value - measured.low)
    needed = math.ceil(count * (half_width / distance) ** 2) - count
    return f"the interval straddles the threshold; about {max(needed, 1):,} more repetitions would settle it"
