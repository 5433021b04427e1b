"""Cases shared out among processes, so that stacks of tiny models keep every core busy."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.connection import wait
from threading import Thread
from typing import TypeVar

Case = TypeVar("Case")
Found = TypeVar("Found")


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
    measure: Callable[[Sequence[Case], int], list[Found]], cases: Sequence[Case], costs: Sequence[float], workers: int
) -> list[Found]:
    """Measure cases, with several workers in a process each, the costly ones shared out first; keep their order.

    `measure` is told its worker's number, and is a function of a module, or a `partial` of one.
    """
    if workers == 1:
        return measure(cases, 0)
    order = sorted(range(len(cases)), key=lambda place: -costs[place])
    shares = [order[first::workers] for first in range(workers)]
    with processes(workers) as pool:
        jobs = [pool.submit(measure, [cases[place] for place in share], worker) for worker, share in enumerate(shares)]
        found = {
            place: one
            for share, job in zip(shares, jobs, strict=True)
            for place, one in zip(share, job.result(), strict=True)
        }
    return [found[place] for place in range(len(cases))]
