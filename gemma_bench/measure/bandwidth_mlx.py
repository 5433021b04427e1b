"""The same ceiling read by MLX, for Metal and CUDA, where torch may not be installed or sees another device."""

import time
from collections.abc import Callable

import mlx.core as mx

from gemma_bench.measure.bandwidth import buffer_bytes

_PASSES = 5
_ROW = 4096


def mlx_read_bandwidth_bytes_per_s(size_bytes: int | None = None) -> float:
    """Return MLX's fastest of several reads of touched memory on its default device.

    Run on the CPU only; on Metal never run until a record from such a machine exists.
    """
    matrix = touched(size_bytes or buffer_bytes())
    vector = mx.ones((_ROW,), dtype=matrix.dtype)
    mx.eval(vector)
    reads: tuple[Callable[[], mx.array], ...] = (lambda: mx.sum(matrix), lambda: matrix @ vector)
    fastest_s, size = min(_seconds(read()) for read in reads for _ in range(_PASSES)), matrix.nbytes
    del matrix, reads
    mx.clear_cache()
    return int(size) / fastest_s


def touched(size_bytes: int) -> mx.array:
    """Return a matrix whose pages were all written."""
    matrix = mx.zeros((size_bytes // 4 // _ROW, _ROW)) + 1.0
    mx.eval(matrix)
    mx.synchronize()
    return matrix


def _seconds(lazy: mx.array) -> float:
    start = time.perf_counter_ns()
    mx.eval(lazy)
    mx.synchronize()
    return (time.perf_counter_ns() - start) / 1e9
