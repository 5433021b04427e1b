"""What a machine lets a model take, and the sentence that says whether it fits."""

from math import inf

from gemma_bench.core.errors import BadInputError
from gemma_bench.core.known_machines import REPORTED_WORKING_SETS_GIB, working_set_range_bytes
from gemma_bench.core.units import GIB, gigabytes

Limits = tuple[int, int]
"""The least and the most bytes, where reports differ."""


def limits_of(ram: float | None) -> Limits:
    """Return the least and the most that a Mac of so many GiB lets its GPU use, or what this machine has."""
    if ram is not None:
        if not 0 < ram < inf:
            raise BadInputError(f"--ram must be more than 0 GiB, got {ram}")
        return working_set_range_bytes(ram * GIB)
    from gemma_bench.core.machine import this_machine

    machine = this_machine()
    if machine.accelerator == "metal":  # never run until a record from such a machine exists
        return working_set_range_bytes(machine.memory_bytes)
    return machine.memory_bytes, machine.memory_bytes


def shown(limits: Limits) -> str:
    """Write limits as a cell of a table."""
    low, high = map(gigabytes, limits)
    return low if low == high else f"{low} to {high}"


def verdict(needed_bytes: int, limits: Limits, ram: float | None, remedy: str) -> str:
    """Say whether it fits, and if not, what the remedy is; of a Mac, what its GPU was reported to use."""
    low, high = limits
    reported = ""
    if ram is not None:
        nearest = ", ".join(f"{size} GiB: {100 * gib / size:.0f} %" for size, gib in REPORTED_WORKING_SETS_GIB.items())
        reported = f" A Mac of {ram:g} GiB lets its GPU use a part (reported: {nearest}); ask it."
    if needed_bytes <= low:
        return f"fits.{reported}"
    may = " It may: reports differ." if needed_bytes <= high else ""
    return f"does not fit: {remedy}.{may}{reported}"
