"""Published figures of machines that claims name, so that arithmetic needs no such machine."""

from pydantic import BaseModel, ConfigDict

from gemma_bench.core.errors import unknown
from gemma_bench.core.units import GIB


class KnownMachine(BaseModel):
    """What the maker, or others where it is silent, say about a machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    bandwidth_bytes_per_s: float
    cache_bytes: int
    memory_bytes: int
    working_set_bytes: int
    gpu_cores_count: int
    gpu_devices_count: int


M3_ULTRA = KnownMachine(
    id="m3ultra-80c-256gb",
    bandwidth_bytes_per_s=819e9,
    cache_bytes=96_000_000,  # inferred: twice the 48 MB reported for each of the two M3 Max dies
    memory_bytes=256 * GIB,  # sold as GB, counted in GiB
    working_set_bytes=239 * GIB,  # read off such a machine by others; may include a raised limit
    gpu_cores_count=80,
    gpu_devices_count=1,  # both dies are one Metal device; MLX and torch see one
)

KNOWN_MACHINES = {machine.id: machine for machine in (M3_ULTRA,)}

# Source: llama-cpp-python issue 687, ollama issue 434, Rapid-MLX pull request 183, antirez/ds4 pull request 893.
REPORTED_WORKING_SETS_GIB = {16: 10.67, 24: 17.76, 32: 21.33, 64: 48.0, 96: 72.0, 128: 107.52, 192: 144.0, 256: 239.0}
"""What Macs of so much memory reported as their GPU's recommended working set; one report each."""


def known_machine(name: str) -> KnownMachine:
    """Return a machine by its id; an unknown one lists those there are."""
    if name not in KNOWN_MACHINES:
        raise unknown("machine", name, KNOWN_MACHINES)
    return KNOWN_MACHINES[name]


def working_set_range_bytes(memory_bytes: float) -> tuple[int, int]:
    """Return the least and the most that a Mac's GPU may use, by the shares that the nearest sizes reported.

    The share is no constant (67 to 93 %), so between two reported sizes both are given; the running system knows.
    """
    sizes = sorted(REPORTED_WORKING_SETS_GIB)
    below = max((size for size in sizes if size * GIB <= memory_bytes), default=sizes[0])
    above = min((size for size in sizes if size * GIB >= memory_bytes), default=sizes[-1])
    shares = sorted(REPORTED_WORKING_SETS_GIB[size] / size for size in (below, above))
    return int(shares[0] * memory_bytes), int(shares[1] * memory_bytes)
