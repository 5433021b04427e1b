"""Joules, where a machine tells them without root: NVIDIA's driver, and Apple's counters through zeus."""

from collections.abc import Callable
from importlib import import_module

from gemma_bench.measure import nvidia

Close = Callable[[], float | None]
"""Ends a window and returns its joules, or `None` where nobody counts."""

_WINDOW = "gemma_bench"


def energy_window(device: str) -> Close:
    """Begin to count the energy of a device; nothing is known of a CPU without root."""
    if device == "cuda":
        return _nvidia()
    if device in ("mps", "metal"):
        return _apple()
    return lambda: None


def _nvidia() -> Close:
    before = nvidia.energy_j()

    def close() -> float | None:
        after = nvidia.energy_j()
        return None if before is None or after is None else after - before

    return close


def _apple() -> Close:
    """Count CPU, GPU and memory with zeus-apple-silicon; never run until a record from such a machine exists."""
    try:
        monitor = import_module("zeus_apple_silicon").AppleEnergyMonitor()
    except ImportError:
        return lambda: None
    monitor.begin_window(_WINDOW)

    def close() -> float | None:
        used = monitor.end_window(_WINDOW)
        parts = (used.cpu_total_mj, used.gpu_mj, used.dram_mj)
        known = [part for part in parts if part is not None]
        return sum(known) / 1000 if known else None

    return close
