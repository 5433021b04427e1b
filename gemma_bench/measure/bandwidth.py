"""How fast this machine reads memory that was really written: the ceiling under which every decode rate must stay."""

import re
import time
from collections.abc import Callable
from pathlib import Path

import torch

_PASSES = 5
_LEAST_BYTES, _MOST_BYTES = 1 << 30, 4 << 30


def buffer_bytes() -> int:
    """Return a size that no cache holds: 8 × the last-level cache, between 1 and 4 GiB.

    Virtual machines report the host's whole cache (260 MB here); 4 GiB are still 16 × that.
    """
    return min(max(8 * last_level_cache_bytes(), _LEAST_BYTES), _MOST_BYTES)


def last_level_cache_bytes() -> int:
    """Return the largest cache that Linux names, or 96 MB where it names none: the largest reported of a Mac."""
    sizes = [path.read_text() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    found = [int(match[1]) * 1024 for text in sizes if (match := re.match(r"(\d+)K", text))]
    return max(found, default=96_000_000)


def read_bandwidth_bytes_per_s(device: str = "cpu", size_bytes: int | None = None) -> float:
    """Return the fastest of several reads of touched memory, by a sum and by a matrix–vector product."""
    size = size_bytes or buffer_bytes()
    memory = touched(size, device)
    matrix, vector = memory.view(-1, 4096), torch.ones(4096, dtype=memory.dtype, device=device)
    seconds = min(
        _seconds(device, read) for read in (memory.sum, lambda: torch.mv(matrix, vector)) for _ in range(_PASSES)
    )
    return memory.nbytes / seconds


def touched(size_bytes: int, device: str) -> torch.Tensor:
    """Return a tensor whose pages were all written; those never written are one page, read several times too fast."""
    return torch.ones(size_bytes // 4 // 4096 * 4096, device=device)


def _seconds(device: str, read: Callable[[], torch.Tensor]) -> float:
    wait = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(device, lambda: None)
    wait()
    start = time.perf_counter_ns()
    read()
    wait()
    return (time.perf_counter_ns() - start) / 1e9
