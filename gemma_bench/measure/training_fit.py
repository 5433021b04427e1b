"""Does a training fit in memory, and if not, which knobs make it fit."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from gemma_bench.core.errors import UnavailableError
from gemma_bench.core.units import GIB
from gemma_bench.measure.training_closed_form import closed_form
from gemma_bench.measure.training_memory import forecast
from gemma_bench.training.plan import Plan


def fitting_knobs(plan: Plan, limit_bytes: float) -> str | None:
    """Return the first knobs with which a plan fits, as options of the command line, or `None` where none do.

    Arithmetic chooses, a forecast confirms.
    """
    for knobs, cheaper in _cheaper(plan):
        if closed_form(cheaper).peak_bytes <= limit_bytes and forecast(cheaper).peak_bytes <= limit_bytes:
            return knobs
    return None


def require_memory(plan: Plan, available_bytes: float) -> None:
    """Refuse what does not fit: `needs 47.5 GiB, 22.1 GiB available; fits with --rank 64 --checkpointing`."""
    needed_bytes = forecast(plan).peak_bytes
    if needed_bytes <= available_bytes:
        return
    knobs = fitting_knobs(plan, available_bytes)
    remedy = f"fits with {knobs}" if knobs else "no smaller rank, batch or length and no checkpointing is enough"
    raise UnavailableError(
        "memory", f"needs {needed_bytes / GIB:.1f} GiB, {available_bytes / GIB:.1f} GiB available; {remedy}"
    )


def _cheaper(plan: Plan) -> Iterator[tuple[str, Plan]]:
    """Yield plans that take less, those that change the result least first: checkpointing, then batch, rank, length."""
    checked = replace(plan, checkpointing=True)
    start = "" if plan.checkpointing else "--checkpointing"
    if start:
        yield start, checked
    smaller = (*_batches(checked), *_ranks(checked), *_lengths(checked))
    yield from ((" ".join(filter(None, (knob, start))), cheaper) for knob, cheaper in smaller)
    last = next((one for _, one in reversed(list(_ranks(checked)))), checked)
    knob = f"--rank {last.method.rank} " if last is not checked else ""  # type: ignore[attr-defined]
    for length_knob, shortest in _lengths(replace(last, batch_size=1)):
        yield f"{knob}--batch-size 1 {length_knob} {start}".strip(), shortest


def _batches(plan: Plan) -> Iterator[tuple[str, Plan]]:
    batch = plan.batch_size
    while batch > 1:
        batch //= 2
        yield f"--batch-size {batch}", replace(plan, batch_size=batch)


def _ranks(plan: Plan) -> Iterator[tuple[str, Plan]]:
    method: Any = plan.method
    rank = getattr(method, "rank", 1)
    while rank > 1:
        rank //= 2
        yield f"--rank {rank}", replace(plan, method=method.model_copy(update={"rank": rank}))


def _lengths(plan: Plan) -> Iterator[tuple[str, Plan]]:
    length, shortest = plan.length, 128
    while length // 2 >= shortest:
        length //= 2
        yield f"--length {length}", replace(plan, length=length)
