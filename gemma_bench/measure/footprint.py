"""The process's footprint as its system counts it: the figure that a user sees."""

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

_RUSAGE_INFO_V4, _PHYSICAL_FOOTPRINT = 4, 9
"""The kind of answer, and where in it `ri_phys_footprint` is, in words of 8 bytes; the first two are a UUID."""

_TRIM_THRESHOLD, _MAPPING_THRESHOLD, _MOST_MAPPINGS = -1, -3, -4
"""glibc's `mallopt`: the free memory from which the heap shrinks, blocks that lie beside it, and the most of them."""


def footprint_bytes() -> int:
    """Return the process's peak since the last reset on Linux, on a Mac and elsewhere what it holds now."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    if platform.system() == "Darwin":
        return physical_footprint_bytes()
    return int(psutil.Process().memory_info().rss)


def give_back() -> None:
    """Return freed memory to the system, where the C library can: glibc's keeps blocks of up to 32 MB."""
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Keep freed memory in the process meanwhile, where the C library is glibc.

    What is given back and asked for again has to be found and cleared by the system, page by page, at a price that
    changes with all else that runs on a machine. Afterwards the thresholds are where glibc's own would end, fixed.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None:
        yield
        return
    set_option(_TRIM_THRESHOLD, -1)
    set_option(_MOST_MAPPINGS, 0)
    try:
        yield
    finally:
        set_option(_TRIM_THRESHOLD, 64 * 2**20)
        set_option(_MAPPING_THRESHOLD, 32 * 2**20)
        set_option(_MOST_MAPPINGS, 65536)
        give_back()


def reset_footprint_peak() -> None:
    """Start a new peak of the footprint, where the system lets a process do so, without what was freed before."""
    give_back()
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")


def physical_footprint_bytes() -> int:
    """Return macOS's `phys_footprint`, which holds Metal's buffers too; never run until a record from a Mac exists."""
    words = (ctypes.c_uint64 * 64)()
    library = ctypes.CDLL("libproc.dylib")
    if library.proc_pid_rusage(psutil.Process().pid, _RUSAGE_INFO_V4, ctypes.byref(words)) != 0:
        raise OSError("proc_pid_rusage does not tell this process's footprint")
    return int(words[_PHYSICAL_FOOTPRINT])
