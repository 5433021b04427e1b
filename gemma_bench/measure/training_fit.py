"""Does a training fit in memory, and if not, which knobs make it fit."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from gemma_bench.core.errors import UnavailableError
from gemma_bench.core.units import GIB
from gemma_bench.measure.training_closed_form import closed_form
from gemma_bench.measure.training_memory import forecast
from gemma_bench.training.plan import Plan

_SURELY = 4
"""What takes less than one part of so many by arithmetic without checkpointing surely fits.

Arithmetic is within a tenth of a forecast, but for what a method keeps of its own: with error feedback twice the rest,
and by rules that look at gradients each layer's inputs and output gradients, which checkpointing does not give back.
"""

NONE_IS_ENOUGH = "no smaller rank, batch or length, no fewer passes and no checkpointing is enough"

_SHORTEST = 128


def fitting_knobs(plan: Plan, limit_bytes: float, length_option: str = "--length") -> str | None:
    """Return the first knobs with which a plan fits, as options of the command line, or `None` where none do.

    Arithmetic chooses, a forecast confirms. The command line has its own name for the length of a row.
    """
    for knobs, cheaper in _cheaper(plan, length_option):
        if closed_form(cheaper).peak_bytes <= limit_bytes and forecast(cheaper).peak_bytes <= limit_bytes:
            return knobs
    return None


def require_memory(plan: Plan, available_bytes: float, length_option: str = "--length") -> None:
    """Refuse what does not fit: `needs 47.5 GiB, 22.1 GiB available; fits with --rank 64 --checkpointing`."""
    rows = plan.batch_size * plan.gradient_accumulation  # rules that look at gradients keep those of every pass
    if _SURELY * closed_form(replace(plan, checkpointing=False, batch_size=rows)).peak_bytes <= available_bytes:
        return
    needed = forecast(plan).peak_bytes
    if needed <= available_bytes:
        return
    knobs = fitting_knobs(plan, available_bytes, length_option)
    remedy = f"fits with {knobs}" if knobs else NONE_IS_ENOUGH
    raise UnavailableError(
        "memory", f"needs {needed / GIB:.1f} GiB, {available_bytes / GIB:.1f} GiB available; {remedy}"
    )


_Step = tuple[str, Plan]


def _cheaper(plan: Plan, length_option: str) -> Iterator[_Step]:
    """Yield plans that take less, those that change the result least first.

    Checkpointing, half the bits of frozen weights, then batch, passes of rules that look at gradients, rank or length,
    then all but length, then all of them; then the same beside an embedding that is not trained.
    """
    yield from _less(plan, "", length_option)
    for knob, frozen in _frozen(plan):
        yield knob, frozen
        yield from _less(frozen, knob, length_option)


def _less(plan: Plan, beside: str, length_option: str) -> Iterator[_Step]:
    """Yield a plan with its harmless knobs, one after the other, and with all of them beside each that shrinks it."""
    knobs, now = beside, plan
    for knob, now in _harmless(plan):
        knobs = _joined(knobs, knob)
        yield knobs, now
    yield from ((_joined(knob, knobs), smaller) for knob, smaller in _smaller(now, length_option))


def _smaller(now: Plan, length_option: str) -> Iterator[_Step]:
    """Yield plans of less batch, passes, rank or length, of less batch, passes and rank, and of less of all."""
    small_batch, of_one = _last(_batches(now), now)
    few_passes, of_one = _last(_passes(of_one), of_one)
    small_batch = _joined(small_batch, few_passes)
    small_rank, of_least = _last(_ranks(of_one), of_one)
    for beside, steps in (
        ("", (*_batches(now), *_passes(now), *_ranks(now), *_lengths(now, length_option))),
        (small_batch, _ranks(of_one)),
        (_joined(small_rank, small_batch), _lengths(of_least, length_option)),
    ):
        yield from ((_joined(knob, beside), cheaper) for knob, cheaper in steps)


def _joined(*knobs: str) -> str:
    return " ".join(filter(None, knobs))


def _last(steps: Iterator[_Step], before: Plan) -> _Step:
    """Return the last step, or none."""
    return next(reversed(list(steps)), ("", before))


def _harmless(plan: Plan) -> Iterator[_Step]:
    if not plan.checkpointing:
        plan = replace(plan, checkpointing=True)
        yield "--checkpointing", plan
    if plan.dtype == "float32" and not plan.method.trains_weights:
        yield "--dtype bfloat16", replace(plan, dtype="bfloat16")


def _frozen(plan: Plan) -> Iterator[_Step]:
    method: Any = plan.method
    if getattr(method, "embeddings", False):
        yield "--no-embeddings", _as_trained(replace(plan, method=method.model_copy(update={"embeddings": False})))


def _as_trained(plan: Plan) -> Plan:
    """Return a plan in whose weights nothing is trained any more, which are 16-bit themselves then."""
    is_frozen = plan.autocast and not plan.method.trains_weights
    return replace(plan, dtype="bfloat16", autocast=False) if is_frozen else plan


def _batches(plan: Plan) -> Iterator[_Step]:
    batch = plan.batch_size
    while batch > 1:
        batch //= 2
        yield f"--batch-size {batch}", replace(plan, batch_size=batch)


def _passes(plan: Plan) -> Iterator[_Step]:
    passes = plan.gradient_accumulation if getattr(plan.method, "rule", None) else 1
    while passes > 1:
        passes //= 2
        yield f"--gradient-accumulation {passes}", replace(plan, gradient_accumulation=passes)


def _ranks(plan: Plan) -> Iterator[_Step]:
    method: Any = plan.method
    rank = getattr(method, "rank", None) or 1
    while rank > 1:
        rank //= 2
        yield f"--rank {rank}", replace(plan, method=method.model_copy(update={"rank": rank}))


def _lengths(plan: Plan, option: str) -> Iterator[_Step]:
    length = plan.length
    while length // 2 >= _SHORTEST:
        length //= 2
        yield f"{option} {length}", replace(plan, length=length)
