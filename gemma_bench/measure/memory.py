"""Four figures, never one: live tensors, the allocator's cache, the process's footprint, the system's limit."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import psutil

from gemma_bench.measure.footprint import footprint_bytes, reset_footprint_peak
from gemma_bench.measure.throughput import Workload, read_before, steps_of
from gemma_bench.models.backend import Backend


@dataclass(frozen=True)
class Memory:
    """One phase: peaks of live tensors and of the process's footprint, and what the allocator held at its end.

    `None` is what a library does not tell: torch's CPU allocator keeps no cache.
    """

    live_bytes: int | None
    allocator_cache_bytes: int | None
    footprint_bytes: int
    limit_bytes: int


class Allocator(Protocol):
    """What a library tells about its memory on one device."""

    def watch(self) -> AbstractContextManager[object]:
        """Return a context in which tensors are counted, where that needs one."""
        ...

    def adopt(self, backend: Backend) -> None:
        """Count a model that was loaded outside a watched context."""
        ...

    def reset_peak(self) -> None:
        """Start a new peak."""
        ...

    def peak_bytes(self) -> int | None:
        """Return the peak of live tensors since the last reset."""
        ...

    def cache_bytes(self) -> int | None:
        """Return what the allocator holds beyond live tensors."""
        ...

    def limit_bytes(self) -> int:
        """Return the most memory that tensors on this device may take."""
        ...


def allocator_of(library: str, device: str) -> Allocator:
    """Return the allocator of a library's device."""
    if library == "mlx":
        from gemma_bench.measure.memory_mlx import MlxAllocator

        return MlxAllocator()
    from gemma_bench.measure.memory_torch import CudaAllocator, TrackedAllocator

    return CudaAllocator() if device == "cuda" else TrackedAllocator(device)


@dataclass
class MemoryMeter:
    """Memory by phase (load, prefill, decode) of one library on one device; watching costs time, so never time it."""

    allocator: Allocator
    phases: dict[str, Memory] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Read the four figures over a block."""
        self.allocator.reset_peak()
        reset_footprint_peak()
        with self.allocator.watch():
            yield
        self.phases[name] = Memory(
            self.allocator.peak_bytes(), self.allocator.cache_bytes(), footprint_bytes(), self.allocator.limit_bytes()
        )


def watched(backend: Backend) -> MemoryMeter:
    """Return a meter for a model that is loaded already."""
    meter = MemoryMeter(allocator_of(backend.name, backend.device))
    meter.allocator.adopt(backend)
    return meter


def weigh(backend: Backend, workload: Workload, meter: MemoryMeter) -> None:
    """Read memory over one untimed repetition, which warms up for the others too."""
    with meter.phase("prefill"):
        prompt, cache = read_before(backend, workload)
        steps = steps_of(backend)(backend, prompt, cache, workload.new_tokens)
        next(steps)
    with meter.phase("decode"):
        for _ in steps:
            pass


def host_limit_bytes(group: Path = Path("/sys/fs/cgroup/memory.max")) -> int:
    """Return the machine's memory, or what a container leaves of it."""
    total = int(psutil.virtual_memory().total)
    allowed = group.read_text().strip() if group.exists() else "max"
    return total if allowed == "max" else min(total, int(allowed))
