"""Cases shared out among processes, so that stacks of tiny models keep every core busy."""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

Case = TypeVar("Case")
Found = TypeVar("Found")


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
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(measure, [cases[place] for place in share], worker) for worker, share in enumerate(shares)]
        found = {
            place: one
            for share, job in zip(shares, jobs, strict=True)
            for place, one in zip(share, job.result(), strict=True)
        }
    return [found[place] for place in range(len(cases))]
