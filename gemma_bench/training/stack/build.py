"""The C kernels of stacks, built at first use."""

import ctypes
from pathlib import Path

from gemma_bench.models.compiled import library

_SOURCES = tuple(Path(__file__).with_name(name) for name in ("kernels.h", "kernels.c", "attention.c"))


def kernels() -> ctypes.CDLL | None:
    """Load the kernels; `None` where there is no C compiler that can build them."""
    return library(_SOURCES)
