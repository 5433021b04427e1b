"""The rules that a run must keep for its figures to be evidence; each is a pure function of what was read."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psutil
from scipy.stats import spearmanr

from gemma_bench.core.errors import InvalidRunError
from gemma_bench.core.machine import output_of

SHORTEST_S = 0.5
_DRIFT_CORRELATION, _DRIFT_PERCENT, _DRIFT_SAMPLES = 0.9, 5, 5


@dataclass(frozen=True)
class State:
    """What the system says at one moment."""

    swapped_bytes: int
    throttle_events: int
    busy_cores: float


def read_state() -> State:
    """Read swap, thermal throttling where the system counts it, and the load of the last minute."""
    return State(psutil.swap_memory().sout, _throttle_events(), os.getloadavg()[0])


def broken_rules(before: State, after: State, duration_s: float, rates: Sequence[float]) -> list[str]:
    """Name every rule that a run broke, the figure that broke it behind a colon."""
    return list(_broken(before, after, duration_s, rates))


def _broken(before: State, after: State, duration_s: float, rates: Sequence[float]) -> Iterator[str]:
    cores = os.cpu_count() or 1
    if after.swapped_bytes > before.swapped_bytes:
        yield f"swapping: {after.swapped_bytes - before.swapped_bytes} bytes were swapped out"
    if after.throttle_events > before.throttle_events:
        yield f"throttled: {after.throttle_events - before.throttle_events} thermal events"
    if before.busy_cores > cores:
        yield f"other load: {before.busy_cores:.1f} busy on {cores} cores before the run"
    if duration_s < SHORTEST_S:
        yield f"too short: {duration_s:.2f} s, at least {SHORTEST_S} s are needed"
    if drift := drift_percent(rates):
        yield f"drift: the rate moved by {drift:.0f} % in one direction"


def drift_percent(rates: Sequence[float]) -> float | None:
    """Return how far samples moved if they moved in one direction: a machine that heats up or wakes up."""
    if len(rates) < _DRIFT_SAMPLES or len(set(rates)) == 1:
        return None
    moved = 100 * (rates[-1] - rates[0]) / rates[0]
    monotone = abs(float(spearmanr(range(len(rates)), rates).statistic)) >= _DRIFT_CORRELATION
    return moved if monotone and abs(moved) > _DRIFT_PERCENT else None


def require_valid(rules: Sequence[str]) -> None:
    """Raise for the first broken rule."""
    if rules:
        rule, _, seen = rules[0].partition(": ")
        raise InvalidRunError(rule, seen)


def _throttle_events() -> int:
    """Count the CPU's thermal events on Linux; on a Mac 1 if it is slowed down now (never run on one so far)."""
    from pathlib import Path

    counters = Path("/sys/devices/system/cpu").glob("cpu*/thermal_throttle/core_throttle_count")
    events = sum(int(counter.read_text()) for counter in counters)
    limits = output_of("pmset", "-g", "therm") or ""
    return events + ("CPU_Speed_Limit" in limits and "= 100" not in limits)
