"""What NVIDIA's driver tells without root, if `nvidia-ml-py` is installed; else nothing."""

from importlib import import_module
from types import ModuleType
from typing import Any

_SLOWED_DOWN = 0x08 | 0x20 | 0x40 | 0x80
"""NVML's reasons: hardware slowdown, software thermal, hardware thermal, hardware power brake."""


def is_slowed_down() -> bool:
    """Tell whether the GPU's clocks are held down by heat or lack of power now."""
    device = _device()
    if device is None:
        return False
    library, handle = device
    return bool(int(library.nvmlDeviceGetCurrentClocksThrottleReasons(handle)) & _SLOWED_DOWN)


def energy_j() -> float | None:
    """Return the joules that the GPU has used since its driver was loaded, or `None` where it does not count."""
    device = _device()
    if device is None:
        return None
    library, handle = device
    try:
        return float(library.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000
    except library.NVMLError:
        return None


def _device() -> tuple[ModuleType, Any] | None:
    """Return the library and the first GPU, or `None` where there is no library, driver or GPU."""
    try:
        pynvml = import_module("pynvml")
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        return pynvml, pynvml.nvmlDeviceGetHandleByIndex(0)
    except pynvml.NVMLError:
        return None
