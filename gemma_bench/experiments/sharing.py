"""Cases shared out among processes, so that stacks of tiny models keep every core busy."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import contextmanager
from functools import partial
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.connection import wait
from multiprocessing.queues import Queue
from threading import Thread
from typing import Any, TypeVar

from gemma_bench.core.files import Progress, silent

Case = TypeVar("Case")
Found = TypeVar("Found")

Measure = Callable[[Sequence[Case], int, Progress], list[Found]]
"""Measures cases as a worker of a number, and says how far it is."""

_LISTEN_EVERY_S = 0.5

_REPORTS: "list[Queue[tuple[str, int, int]]]" = []
"""In a worker, where its process hears from."""


@contextmanager
def processes(workers: int, prepare: Callable[[], object] | None = None) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of new processes, each prepared once, none of which outlives the block or this process."""
    others = set(active_children())
    with ProcessPoolExecutor(workers, get_context("spawn"), _begin, (prepare,)) as pool:
        try:
            yield pool
        except BaseException:
            for child in set(active_children()) - others:
                child.terminate()
            raise


def _begin(prepare: Callable[[], object] | None) -> None:
    Thread(target=_end_with_parent, daemon=True).start()
    if prepare is not None:
        prepare()


def _end_with_parent() -> None:
    """End this process when its parent is gone, however that came: nobody would read what it finds."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def share_out(
    measure: Measure[Case, Found],
    cases: Sequence[Case],
    costs: Sequence[float],
    workers: int,
    progress: Progress = silent,
) -> list[Found]:
    """Measure cases, with several workers in a process each, the costly ones shared out first; keep their order.

    `measure` is told its worker's number, and is a function of a module, or a `partial` of one. The progress of every
    worker is reported here, under its number.
    """
    workers = min(workers, len(cases))
    if workers <= 1:
        return measure(cases, 0, progress)
    order = sorted(range(len(cases)), key=lambda place: -costs[place])
    shares = [order[first::workers] for first in range(workers)]
    reports: Queue[tuple[str, int, int]] = get_context("spawn").Queue()
    with processes(workers, partial(_report_to, reports)) as pool:
        jobs = [
            pool.submit(_measure, measure, [cases[place] for place in share], worker)
            for worker, share in enumerate(shares)
        ]
        _listen(jobs, reports, progress)
        found = {
            place: one
            for share, job in zip(shares, jobs, strict=True)
            for place, one in zip(share, job.result(), strict=True)
        }
    return [found[place] for place in range(len(cases))]


def _report_to(reports: "Queue[tuple[str, int, int]]") -> None:
    reports.cancel_join_thread()  # a report that nobody waits for must not keep the process
    _REPORTS.append(reports)


def _measure(measure: Measure[Case, Found], cases: Sequence[Case], worker: int) -> list[Found]:
    (reports,) = _REPORTS
    return measure(cases, worker, lambda what, done, total: reports.put((f"{what}, process {worker + 1}", done, total)))


def _listen(jobs: "Sequence[Future[Any]]", reports: "Queue[tuple[str, int, int]]", progress: Progress) -> None:
    """Pass reports on until all jobs are done or one has failed."""
    while True:
        over, running = wait_for(jobs, _LISTEN_EVERY_S, FIRST_EXCEPTION)
        while not reports.empty():
            progress(*reports.get())
        if not running or any(job.exception() for job in over):
            return
