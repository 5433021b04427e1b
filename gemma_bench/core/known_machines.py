"""Published figures of machines that claims name, so that arithmetic needs no such machine."""

from pydantic import BaseModel, ConfigDict

from gemma_bench.core.errors import unknown


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
    memory_bytes=256_000_000_000,
    working_set_bytes=239_000_000_000,  # read off such a machine by others; may include a raised limit
    gpu_cores_count=80,
    gpu_devices_count=1,  # both dies are one Metal device; MLX and torch see one
)

KNOWN_MACHINES = {machine.id: machine for machine in (M3_ULTRA,)}


def known_machine(name: str) -> KnownMachine:
    """Return a machine by its id; an unknown one lists those there are."""
    if name not in KNOWN_MACHINES:
        raise unknown("machine", name, KNOWN_MACHINES)
    return KNOWN_MACHINES[name]
