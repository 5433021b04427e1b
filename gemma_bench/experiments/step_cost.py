"""The question: what does a training step cost in time and memory, low-rank against full, beside the forecast."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from gemma_bench.core.errors import BadInputError, UnavailableError
from gemma_bench.core.files import Progress, silent, write_text
from gemma_bench.core.intervals import median_interval
from gemma_bench.core.records import Record, Subject
from gemma_bench.core.units import GIB
from gemma_bench.experiments.step_case import Case
from gemma_bench.measure.bandwidth import elapsed_s
from gemma_bench.measure.comparison import smallest_effect_percent
from gemma_bench.measure.footprint import footprint_bytes, freed_memory_kept, reset_footprint_peak
from gemma_bench.measure.training_closed_form import closed_form
from gemma_bench.measure.training_memory import KINDS, forecast, measure
from gemma_bench.measure.training_time import allocator_peak_bytes, started, steps
from gemma_bench.measure.turn import turn
from gemma_bench.measure.validity import watched
from gemma_bench.training.free_memory import free_bytes
from gemma_bench.training.plan import Plan
from gemma_bench.training.step import Training

VERSION = 2

_LEAST_ROUNDS = 2


class Config(BaseModel):
    """The cases; a round is every method forwards and backwards, a turn `steps` steps of one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cases: tuple[Case, ...]
    rounds: int = 5
    steps: int = 1


_ALL = ("full", "lora", "relora", "rank1")

FIXTURE = Config(
    cases=(Case(model="tiny", methods=_ALL, rank=4, batch_size=4, length=64, dtype="float32"),), rounds=6, steps=3
)
"""Seconds on two cores: tiny models are bound by calls, so low rank is slower there."""

_REAL = Case(model="270m", methods=_ALL, rank=128, batch_size=1, length=256, dtype="float32")

STUDY = Config(cases=(_REAL, _REAL.model_copy(update={"methods": ("lora", "relora"), "embeddings": False})), rounds=16)
"""The shape of the real 270M on two cores, at the rank of ReLoRA's paper; and ReLoRA over LoRA, of adapters alone."""

_LLAMA = Case(
    model="llama-1.3b",
    methods=("full", "relora"),
    rank=128,
    batch_size=8,
    length=512,
    dtype="bfloat16",
    adapter_dtype="bfloat16",
    exact_merges=False,
)

FULL = Config(
    cases=(
        _LLAMA,
        _LLAMA.model_copy(update={"checkpointing": True}),
        Case(model="12b", methods=("lora",), rank=16, batch_size=1, length=1024, dtype="bfloat16"),
    ),
    rounds=8,
    steps=4,
)
"""ReLoRA's largest model as published, and LoRA on the 12b: for one GPU of 80 GB."""

MINUTES = {"fixture": 0.5, "study": 9, "full": 3}


class StepRecord(Record):
    """One method of a case; `samples` are milliseconds per step, a turn each, in order.

    While steps are timed, what they free stays in the process (since version 2). Steps end before a merge, whose
    milliseconds are apart. Measured bytes are those of live tensors in a run alone: by kind on the CPU; on CUDA the
    allocator's peak only. The footprint is the whole process's. `over_first` is the time over that of the case's first
    method, round by round, and `smallest_effect_percent` how far it moved between rounds: less could not be told from
    nothing. `with_merges_over_first` has the method's merges in it, each spread over the steps before the first.
    """

    case: str
    method: str
    device: str
    rank_count: int
    batch_size_count: int
    length_count_tokens: int
    is_checkpointed: bool
    trained_parameters_count: int
    step_ms: float
    step_low_ms: float
    step_high_ms: float
    merge_ms: float
    over_first_ratio: float
    over_first_low_ratio: float
    over_first_high_ratio: float
    smallest_effect_percent: float | None = None
    with_merges_over_first_ratio: float | None = None
    measured_peak_bytes: int
    measured_weights_bytes: int | None = None
    measured_gradients_bytes: int | None = None
    measured_optimizer_bytes: int | None = None
    measured_activations_bytes: int | None = None
    measured_temporaries_bytes: int | None = None
    footprint_bytes: int
    forecast_peak_bytes: int
    forecast_weights_bytes: int
    forecast_gradients_bytes: int
    forecast_optimizer_bytes: int
    forecast_activations_bytes: int
    forecast_temporaries_bytes: int
    closed_form_peak_bytes: int
    closed_form_states_bytes: int
    broken_rules: tuple[str, ...]

    @property
    def row(self) -> str:
        """Name what was timed, whatever was timed beside it."""
        return f"{self.case}, {self.method}"


def run(
    config: Config,
    *,
    scale: str = "fixture",
    device: str = "cpu",
    progress: Progress = silent,
    state: Path | None = None,
) -> Iterator[StepRecord]:
    """Yield a record per method, case by case; a `state` folder knows the cases whose records were all taken."""
    if config.rounds < _LEAST_ROUNDS or config.steps < 1:
        raise BadInputError(f"rounds must be at least 2 and steps 1, got {config.rounds} and {config.steps}")
    left = {place: case for place, case in enumerate(config.cases) if state is None or not _done(state, place).exists()}
    for case in left.values():
        _check_memory(case, free_bytes(device))
    for place, case in left.items():
        yield from _case(case, config, scale, device, progress)
        if state is not None:
            write_text(_done(state, place), case.name)


def _done(state: Path, place: int) -> Path:
    return state / f"case-{place}.txt"


def _check_memory(case: Case, free: int) -> None:
    """Refuse a case whose methods, all of them ready while they take turns, would not fit."""
    forms = [closed_form(case.plan(method)) for method in case.methods]
    needed = sum(form.states_bytes for form in forms) + max(form.peak_bytes - form.states_bytes for form in forms)
    if needed > free:
        raise UnavailableError(
            "memory",
            f"{case.name} needs {needed / GIB:.1f} GiB for {', '.join(case.methods)}, {free / GIB:.1f} GiB available",
        )


def _case(case: Case, config: Config, scale: str, device: str, progress: Progress) -> Iterator[StepRecord]:
    memory = {}
    for done, method in enumerate(case.methods):
        progress(f"memory of {case.name}", done, len(case.methods))
        memory[method] = _memory(case.plan(method), device)
    with turn() as other_bench_pid, freed_memory_kept():
        trainings = {method: started(case.plan(method), device) for method in case.methods}
        with watched(other_bench_pid) as seen:
            times = in_turn(trainings, config, device, case.name, progress)
        merges = {method: 1e3 * elapsed_s(training.merge, device) for method, training in trainings.items()}
    for method, samples in times.items():
        ratios = _by_round(samples, times[case.methods[0]])
        over = median_interval(ratios)
        yield StepRecord.measured(
            Subject(model_id=case.model, weights_origin="random weights", dtype=case.dtype, seed=0),
            experiment="step_cost",
            experiment_version=VERSION,
            config_json=json.dumps({"method": method, **config.model_dump(), "cases": [case.model_dump()]}),
            scale=scale,
            samples=tuple(samples),
            **_request(case, method, device),
            trained_parameters_count=sum(parameter.numel() for parameter in trainings[method].trained),
            **median_interval(samples).named("step", "ms"),
            merge_ms=merges[method],
            **over.named("over_first", "ratio"),
            smallest_effect_percent=smallest_effect_percent(ratios),
            with_merges_over_first_ratio=over.value * _with_merges(trainings[method], samples, merges[method]),
            **memory[method],
            broken_rules=seen.broken_rules([1e3 / sample for sample in samples]),
        )


def _with_merges(training: Training, samples: Sequence[float], merge_ms: float) -> float:
    """Return a step's time with its share of a merge over that without."""
    intervals = [callback.first_merge for callback in training.prepared.callbacks]
    return 1 + sum(merge_ms / interval for interval in intervals) / median_interval(samples).value


def in_turn(
    trainings: dict[str, Training], config: Config, device: str, name: str, progress: Progress = silent
) -> dict[str, list[float]]:
    """Time every method twice per round, A B B A, after a round that is not counted; return milliseconds per step."""
    times: dict[str, list[float]] = {method: [] for method in trainings}
    for done in range(config.rounds + 1):
        for method in (*trainings, *reversed(trainings)):
            times[method].append(1e3 * elapsed_s(steps(trainings[method], config.steps), device) / config.steps)
        progress(f"timing {name}", done, config.rounds)
    return {method: samples[2:] for method, samples in times.items()}


def _memory(plan: Plan, device: str) -> dict[str, int]:
    """Return the peak of a run alone, foreseen and measured."""
    seen, arithmetic = forecast(plan), closed_form(plan)
    figures = {f"forecast_{name}": count for name, count in seen.model_dump().items()}
    reset_footprint_peak()
    if device == "cpu":
        found = measure(plan)
        figures |= {f"measured_{kind}_bytes": getattr(found, f"{kind}_bytes") for kind in KINDS}
        peak_bytes = found.peak_bytes
    else:
        peak_bytes = allocator_peak_bytes(plan, device)
    return figures | {
        "measured_peak_bytes": peak_bytes,
        "footprint_bytes": footprint_bytes(),
        "forecast_peak_bytes": seen.peak_bytes,
        "closed_form_peak_bytes": arithmetic.peak_bytes,
        "closed_form_states_bytes": arithmetic.states_bytes,
    }


def _by_round(samples: Sequence[float], first: Sequence[float]) -> list[float]:
    """Return the ratio of each round's two turns to those of the first method."""
    pairs = zip(samples[::2], samples[1::2], first[::2], first[1::2], strict=True)
    return [(one * two / (first_one * first_two)) ** 0.5 for one, two, first_one, first_two in pairs]


def _request(case: Case, method: str, device: str) -> dict[str, Any]:
    return {
        "case": case.name,
        "method": method,
        "device": device,
        "rank_count": case.rank,
        "batch_size_count": case.batch_size,
        "length_count_tokens": case.length,
        "is_checkpointed": case.checkpointing,
    }
