"""The rules that a run must keep for its figures to be evidence; each is a pure function of what was read."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
from scipy.stats import spearmanr

from gemma_bench.core.errors import InvalidRunError
from gemma_bench.measure.system_state import is_low_power, is_throttled, throttle_events

SHORTEST_S = 0.5
_OTHERS_CORES, _OTHERS_SHARE = 0.3, 0.05
_DRIFT_CORRELATION, _DRIFT_PERCENT, _DRIFT_SAMPLES = 0.9, 5, 5


@dataclass(frozen=True)
class State:
    """What the system says at one moment; counters run since its start."""

    swapped_bytes: int = 0
    throttle_events: int = 0
    others_cpu_s: float = 0.0
    is_throttled: bool = False
    is_low_power: bool = False
    other_bench_pid: int | None = None


@dataclass(frozen=True)
class Run:
    """All that the rules look at: the system before and after, how long it took, the samples in their order."""

    before: State
    after: State
    duration_s: float
    rates: Sequence[float]


def read_state(other_bench_pid: int | None = None) -> State:
    """Read swap, throttling and low power where the system tells, and the CPU time that others used."""
    return State(
        swapped_bytes=psutil.swap_memory().sout,
        throttle_events=throttle_events(),
        others_cpu_s=_others_cpu_s(),
        is_throttled=is_throttled(),
        is_low_power=is_low_power(),
        other_bench_pid=other_bench_pid,
    )


def _others_cpu_s() -> float:
    """Return the CPU time of everything but this process; time that a hypervisor stole counts as others'."""
    busy, own = psutil.cpu_times(), time.process_time()
    kinds = ("user", "nice", "system", "irq", "softirq", "steal")
    return float(sum(getattr(busy, kind, 0.0) for kind in kinds)) - own


def swapping(run: Run) -> str | None:
    """Find memory that was swapped out during the run."""
    swapped = run.after.swapped_bytes - run.before.swapped_bytes
    return f"{swapped} bytes were swapped out" if swapped > 0 else None


def throttled(run: Run) -> str | None:
    """Find a processor slowed down by heat or lack of power."""
    events = run.after.throttle_events - run.before.throttle_events
    if events > 0:
        return f"{events} thermal events"
    return "the system says that it is slowed down" if run.before.is_throttled or run.after.is_throttled else None


def low_power(run: Run) -> str | None:
    """Find a system that saves power."""
    return "low-power mode or battery" if run.before.is_low_power or run.after.is_low_power else None


def other_load(run: Run) -> str | None:
    """Find other processes that used more than 0.3 cores and 5 % of the machine."""
    cores = (run.after.others_cpu_s - run.before.others_cpu_s) / run.duration_s
    allowed = max(_OTHERS_CORES, _OTHERS_SHARE * (os.cpu_count() or 1))
    return f"others kept {cores:.1f} cores busy, allowed are {allowed:.1f}" if cores > allowed else None


def other_bench(run: Run) -> str | None:
    """Find another benchmark of ours on this machine."""
    pid = run.before.other_bench_pid
    return f"process {pid} is measuring too" if pid is not None else None


def too_short(run: Run) -> str | None:
    """Find a run so short that the machine's waking up is in the figure."""
    return f"{run.duration_s:.2f} s, at least {SHORTEST_S} s are needed" if run.duration_s < SHORTEST_S else None


def drift(run: Run) -> str | None:
    """Find samples that move in one direction: a machine that heats up or wakes up."""
    moved = drift_percent(run.rates)
    return f"the rate moved by {moved:.0f} % in one direction" if moved else None


RULES = (swapping, throttled, low_power, other_load, other_bench, too_short, drift)


def broken_rules(before: State, after: State, duration_s: float, rates: Sequence[float]) -> list[str]:
    """Name every rule that a run broke, the figure that broke it behind a colon."""
    run = Run(before, after, duration_s, rates)
    return [f"{rule.__name__.replace('_', ' ')}: {seen}" for rule in RULES if (seen := rule(run))]


class Watched:
    """What the system said around a run: whole once the run is over."""

    def __init__(self, before: State) -> None:
        """Take what the system says before it."""
        self.before, self.after, self.duration_s = before, before, 0.0

    def broken_rules(self, rates: Sequence[float]) -> tuple[str, ...]:
        """Name every rule that the run broke whose samples these are."""
        return tuple(broken_rules(self.before, self.after, self.duration_s, rates))


@contextmanager
def watched(other_bench_pid: int | None) -> Iterator[Watched]:
    """Read the system before and after a block, and how long it took."""
    run, start = Watched(read_state(other_bench_pid)), time.monotonic()
    yield run
    run.duration_s, run.after = time.monotonic() - start, read_state()


def drift_percent(rates: Sequence[float]) -> float | None:
    """Return how far samples moved if they moved in one direction."""
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
