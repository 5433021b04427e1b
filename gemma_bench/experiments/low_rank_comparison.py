"""Arms of low-rank training side by side: equal tokens, each at its own best rate, several seeds, one record.

A rate is chosen on a seed of its own, from a grid that grows until its best is not at an end. Runs go side by side in
processes of one thread, or one after the other on a GPU; with a `state` folder finished runs are kept and not repeated.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import as_completed
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict

from gemma_bench.core.errors import BadInputError, UnavailableError
from gemma_bench.core.files import Progress, new_file
from gemma_bench.core.kept import kept
from gemma_bench.core.units import GIB
from gemma_bench.experiments.arms_record import ArmsRecord, Grid, best_rate, figures, is_bracketed, searches, subject
from gemma_bench.experiments.low_rank_arms import Arm, Course, Outcome, run_arm, warm_up
from gemma_bench.experiments.sharing import processes as pool_of
from gemma_bench.measure.training_closed_form import closed_form
from gemma_bench.training.free_memory import free_bytes
from gemma_bench.training.micro import micro_model
from gemma_bench.training.plan import Plan
from gemma_bench.training.torch_file import read_torch


class Comparison(BaseModel):
    """What is compared.

    A grid of rates grows by at most `most_extensions`; `processes` is how many runs go side by side on CPUs, 0 for one
    per core.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    course: Course
    arms: tuple[Arm, ...]
    tuning_seed: int = 0
    seeds: tuple[int, ...] = (1, 2, 3)
    most_extensions: int = 8
    processes: int = 0


class Job(NamedTuple):
    """One run: an arm at a rate with a seed."""

    arm: Arm
    rate: float
    seed: int


Results = dict[tuple[str, float, int], Outcome]


def compare_arms(
    config: Comparison,
    *,
    experiment: str,
    version: int,
    scale: str,
    device: str,
    progress: Progress,
    state: Path | None,
) -> Iterator[ArmsRecord]:
    """Find each arm's best rate, run it with every seed, and yield the one record of it all."""
    _check(config)
    check_memory(config, device)
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch, _runner(config, device, state or Path(scratch)) as run:
        results: Results = {}
        last_count = len(config.arms) * len(config.seeds)
        for jobs in _searches(config, results):
            results |= run(jobs, _counted(progress, len(results), len(results) + len(jobs) + last_count))
        best = {arm.name: best_rate(_grid(arm, results, config.tuning_seed)) for arm in config.arms}
        last = [Job(arm, best[arm.name], seed) for arm in config.arms for seed in config.seeds]
        results |= run(last, _counted(progress, len(results), len(results) + last_count))
        yield ArmsRecord.measured(
            subject(config.course),
            experiment=experiment,
            experiment_version=version,
            config_json=json.dumps(json.loads(config.model_dump_json()), sort_keys=True),
            scale=scale,
            device=device,
            elapsed_s=round(time.monotonic() - began_s, 1),
            rates=best,
            **searches({arm.name: _grid(arm, results, config.tuning_seed) for arm in config.arms}),
            **figures(
                config.course,
                {arm.name: [results[arm.name, best[arm.name], seed] for seed in config.seeds] for arm in config.arms},
            ),
        )


def _check(config: Comparison) -> None:
    if config.tuning_seed in config.seeds:
        raise BadInputError(f"seeds must not hold the tuning seed {config.tuning_seed}, got {config.seeds}")
    for arm in config.arms:
        if len(arm.rates) < 3 or list(arm.rates) != sorted(set(arm.rates)) or arm.rates[0] <= 0:  # noqa: PLR2004
            raise BadInputError(f"rates of {arm.name} must be at least 3, positive and rising, got {arm.rates}")


def check_memory(config: Comparison, device: str) -> None:
    """Refuse, by arithmetic, runs that would not fit side by side."""
    course = config.course
    knobs: dict[str, Any] = {"batch_size": course.rows, "length": course.length, "dtype": "float32"}
    methods: list[Any] = [arm.method for arm in config.arms]
    plans = [Plan(course.size, how, **knobs, autocast=course.autocast, loss_in_pieces=True) for how in methods]
    count, free = _processes(config, device), free_bytes(device)
    needed = count * max(closed_form(plan).peak_bytes for plan in plans)
    if needed > free:
        raise UnavailableError(
            "memory", f"needs {needed / GIB:.1f} GiB, {count} at a time, {free / GIB:.1f} GiB available"
        )


def _processes(config: Comparison, device: str) -> int:
    return (config.processes or os.cpu_count() or 1) if device == "cpu" else 1


def _searches(config: Comparison, results: Results) -> Iterator[list[Job]]:
    """Yield what is to be run next, until every arm's best rate has a worse one on both sides."""
    jobs = [Job(arm, rate, config.tuning_seed) for arm in config.arms for rate in arm.rates]
    for _ in range(config.most_extensions + 1):
        yield jobs
        wanted = ((arm, next_rate(_grid(arm, results, config.tuning_seed))) for arm in config.arms)
        jobs = [Job(arm, rate, config.tuning_seed) for arm, rate in wanted if rate is not None]
        if not jobs:
            return


def _grid(arm: Arm, results: Results, seed: int) -> Grid:
    found = {rate: one.nats for (name, rate, of), one in results.items() if name == arm.name and of == seed}
    return dict(sorted(found.items()))


def next_rate(grid: Grid) -> float | None:
    """Return the rate to try next, a step beyond the end that is best so far, or `None` if the best is inside."""
    if is_bracketed(grid):
        return None
    rates = list(grid)
    return rates[0] ** 2 / rates[1] if best_rate(grid) == rates[0] else rates[-1] ** 2 / rates[-2]


Tell = Callable[[int], None]
"""Takes how many of the jobs in hand are done."""

Run = Callable[[Sequence[Job], Tell], Results]


def _counted(progress: Progress, before: int, total: int) -> Tell:
    """Return what tells how many of all runs are done."""
    return lambda done: progress("runs", before + done, total)


@contextmanager
def _runner(config: Comparison, device: str, folder: Path) -> Iterator[Run]:
    """Yield a function that runs jobs side by side and knows those that were run before."""
    folder.mkdir(parents=True, exist_ok=True)
    processes = _processes(config, device)
    if processes == 1:
        yield lambda jobs, tell: _collected((_run(job, config.course, device, folder) for job in jobs), tell)
        return
    with pool_of(processes, partial(torch.set_num_threads, 1)) as pool:

        def run(jobs: Sequence[Job], tell: Tell) -> Results:
            seeds = {job.seed for job in jobs}
            for started in [pool.submit(_start, seed, config.course, device, folder) for seed in seeds]:
                started.result()
            futures = [pool.submit(_run, job, config.course, device, folder) for job in jobs]
            return _collected((future.result() for future in as_completed(futures)), tell)

        yield run


def _collected(outcomes: Iterable[Outcome], tell: Tell) -> Results:
    results: Results = {}
    tell(0)
    for outcome in outcomes:
        results[outcome.arm, outcome.rate, outcome.seed] = outcome
        tell(len(results))
    return results


def _run(job: Job, course: Course, device: str, folder: Path) -> Outcome:
    """Run one job, or read what an earlier run of the same configuration left of it."""

    def run() -> dict[str, Any]:
        start = micro_model(course.size)
        start.load_state_dict(read_torch(_start(job.seed, course, device, folder), "state", "remove it to start anew"))
        return run_arm(job.arm, job.rate, job.seed, course, start, device).model_dump()

    outcome: Outcome = kept(folder, f"{job.arm.name}-{job.rate:.6g}-{job.seed}", run, Outcome)
    return outcome


def _start(seed: int, course: Course, device: str, folder: Path) -> Path:
    """Return the file of a seed's warmed-up weights, made if need be."""
    path = folder / f"start-{seed}.pt"
    if not path.exists():
        warmed = warm_up(course, seed, device).cpu().state_dict()
        with new_file(path) as partial:
            torch.save(warmed, partial)
    return path
