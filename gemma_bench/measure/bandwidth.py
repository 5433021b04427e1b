"""How fast this machine reads memory that was really written: the ceiling under which every decode rate must stay."""

import gc
import mmap
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from gemma_bench.measure.footprint import give_back
from gemma_bench.models.backend import Backend

if TYPE_CHECKING:
    from torch import Tensor

_PASSES = 5
_CACHES = 8
_LEAST_BYTES, _MOST_BYTES, _MOST_OF_FREE_MEMORY = 1 << 30, 4 << 30, 0.25
_ROW = 4096


def bandwidth_under(backend: Backend) -> float:
    """Return the read bandwidth in bytes/s of the memory that a backend's weights lie in."""
    if backend.name == "mlx" and backend.device != "cpu":
        from gemma_bench.measure.bandwidth_mlx import mlx_read_bandwidth_bytes_per_s

        return mlx_read_bandwidth_bytes_per_s()
    return read_bandwidth_bytes_per_s(backend.device)


def buffer_bytes(cache_bytes: int | None = None, free_bytes: int | None = None) -> int:
    """Return a size that no cache holds: 8 × the last-level cache, from 1 to 4 GiB, a quarter of free memory at most.

    Virtual machines report the whole host's cache (260 MB here, so 2.2 GB are read), of which a guest has a share.
    """
    cache = last_level_cache_bytes() if cache_bytes is None else cache_bytes
    free = psutil.virtual_memory().available if free_bytes is None else free_bytes
    return min(max(_CACHES * cache, _LEAST_BYTES), _MOST_BYTES, int(free * _MOST_OF_FREE_MEMORY))


def last_level_cache_bytes() -> int:
    """Return the largest cache that Linux names, or 96 MB where it names none: the largest reported of a Mac."""
    sizes = [path.read_text() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    found = [int(match[1]) * 1024 for text in sizes if (match := re.match(r"(\d+)K", text))]
    return max(found, default=96_000_000)


def read_bandwidth_bytes_per_s(device: str = "cpu", size_bytes: int | None = None) -> float:
    """Return torch's fastest of several reads of touched memory, by a sum and by a matrix–vector product."""
    import torch

    memory = touched(size_bytes or buffer_bytes(), device)
    matrix, vector = memory.view(-1, _ROW), torch.ones(_ROW, dtype=memory.dtype, device=device)
    seconds = min(
        elapsed_s(read, device) for read in (memory.sum, lambda: torch.mv(matrix, vector)) for _ in range(_PASSES)
    )
    size = memory.nbytes
    del memory, matrix
    _give_back(device)
    return size / seconds


def _give_back(device: str) -> None:
    """Return the buffer to the device, whose allocator would keep it: a model may need the room."""
    import torch

    if device == "cuda":
        torch.cuda.empty_cache()
    elif device == "mps":  # never run until a record from such a machine exists
        torch.mps.empty_cache()


def touched(size_bytes: int, device: str) -> "Tensor":
    """Return a tensor whose pages were all written; those never written are one page, read several times too fast."""
    import torch

    return torch.ones(size_bytes // 4 // _ROW * _ROW, device=device)


def resident_share(size_bytes: int = 1 << 29) -> float:
    """Return which share of such a buffer the system really holds once it has been read: 1, or the ceiling is none.

    What was freed is given back first: a buffer that reuses memory which the process still holds takes none.
    """
    gc.collect()
    give_back()
    before = psutil.Process().memory_info().rss
    memory = touched(size_bytes, "cpu")
    memory.sum()
    grown_bytes = psutil.Process().memory_info().rss - before
    return min(max(grown_bytes, mmap.PAGESIZE), memory.nbytes) / memory.nbytes


def elapsed_s(work: Callable[[], object], device: str) -> float:
    """Time a piece of work; a GPU, which runs behind, is waited for on both sides."""
    import torch

    # The mps branch was never run until a record from such a machine exists.
    wait = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(device, lambda: None)
    wait()
    start = time.perf_counter_ns()
    work()
    wait()
    return (time.perf_counter_ns() - start) / 1e9
