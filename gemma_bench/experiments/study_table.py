"""The study's speed table, measured anew on the machine that it names; never run on one so far."""

from collections.abc import Sequence
from dataclasses import dataclass

from gemma_bench.core.errors import UnavailableError
from gemma_bench.core.known_machines import M3_ULTRA
from gemma_bench.core.machine import this_machine
from gemma_bench.measure.correctness import check_output
from gemma_bench.measure.memory import watched, weigh
from gemma_bench.measure.throughput import Trial, Workload, by_case, in_turn, run_trial
from gemma_bench.measure.turn import turn
from gemma_bench.measure.validity import State, broken_rules, read_state
from gemma_bench.models.backend import Backend
from gemma_bench.models.loading import load

ROUNDS = 5

MODELS = {
    "mlx 4-bit": ("12b-it-4bit", "mlx", "metal", None),
    "mlx 16-bit": ("12b-it", "mlx", "metal", "bfloat16"),
    "mps 16-bit": ("12b-it", "torch", "mps", "float16"),
}
"""Model, library, device and precision; the first is weighed before the others are there."""

WORKLOADS = {
    "mlx 4-bit": ("mlx 4-bit", Workload()),
    "mlx 16-bit": ("mlx 16-bit", Workload()),
    "mps 16-bit": ("mps 16-bit", Workload()),
    "mlx 4-bit short": ("mlx 4-bit", Workload(new_tokens=18)),
    "mlx 4-bit long": ("mlx 4-bit", Workload(new_tokens=512)),
}

HELD_TO = {"mps 16-bit": "mlx 16-bit"}
"""float16 may overflow in single steps and in one pass alike, so another library's tokens judge it."""


@dataclass(frozen=True)
class Row:
    """One row: decode rates round by round, the rules that they broke, and the peak of live tensors where weighed."""

    rates: tuple[float, ...]
    broken_rules: tuple[str, ...] = ()
    peak_bytes: int | None = None


def measure() -> dict[str, Row]:
    """Measure all rows in turn; a rule that one row broke is that row's alone.

    Raises `UnavailableError` on any other machine than the study's.
    """
    here = this_machine().id
    if here != M3_ULTRA.id:
        raise UnavailableError("metal", f"this claim is about {M3_ULTRA.id}, this machine is {here}")
    with turn() as other_bench_pid:
        weighed = next(iter(MODELS))
        models = {weighed: load(*MODELS[weighed])}
        peak = _peak_bytes(models[weighed], WORKLOADS[weighed][1])
        models |= {name: load(*what) for name, what in MODELS.items() if name != weighed}
        cases = {row: (models[name], workload) for row, (name, workload) in WORKLOADS.items()}
        for case in cases.values():
            run_trial(*case)
        before = read_state(other_bench_pid)
        trials = by_case(list(in_turn(cases, ROUNDS)))
        states = before, read_state()
    duration_s = sum(trial.duration_s for done in trials.values() for trial in done)
    return {
        row: Row(
            tuple(trial.decode_tokens_per_s for trial in done),
            _broken(models, row, done, states, duration_s),
            peak if row == weighed else None,
        )
        for row, done in trials.items()
    }


def _peak_bytes(backend: Backend, workload: Workload) -> int | None:
    """Return the peak of live tensors while one model, alone, reads and writes."""
    meter = watched(backend)
    weigh(backend, workload, meter)
    peaks = [phase.live_bytes for phase in meter.phases.values()]
    return max((peak for peak in peaks if peak is not None), default=None)


def _broken(
    models: dict[str, Backend], row: str, done: Sequence[Trial], states: tuple[State, State], duration_s: float
) -> tuple[str, ...]:
    rules = broken_rules(*states, duration_s, [trial.decode_tokens_per_s for trial in done])
    name, workload = WORKLOADS[row]
    reference = models[HELD_TO[row]] if row in HELD_TO else None
    for rows in dict.fromkeys(trial.rows for trial in done):
        found = check_output(models[name], workload, rows, reference)
        if not found.has_finite_logits:
            rules.append(f"wrong output: {row} gives no finite logits")
        elif not found.is_correct:
            rules.append(f"wrong output: {row} is {found.largest_gap_nats} nats off the best tokens")
    return tuple(rules)
