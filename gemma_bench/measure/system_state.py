"""Heat and power as each system tells them to anyone: Linux counts, macOS reports, NVIDIA sets flags."""

import re
from collections.abc import Mapping
from pathlib import Path

import psutil

from gemma_bench.core.machine import output_of
from gemma_bench.measure import nvidia

_CPUS = Path("/sys/devices/system/cpu")
_PROFILE = Path("/sys/firmware/acpi/platform_profile")


def throttle_events(cpus: Path = _CPUS) -> int:
    """Count the CPU's thermal events on Linux, of cores and of packages; 0 where nobody counts."""
    counters = cpus.glob("cpu*/thermal_throttle/*_throttle_count")
    return sum(int(counter.read_text()) for counter in counters)


def is_throttled() -> bool:
    """Tell whether the CPU (macOS) or the GPU (NVIDIA) is slowed down now; never run on a Mac so far."""
    return mac_is_slowed_down(output_of("pmset", "-g", "therm")) or nvidia.is_slowed_down()


def mac_is_slowed_down(report: str | None) -> bool:
    """Read `pmset -g therm`: a limit below 100, or a warning level that was recorded."""
    if not report:
        return False
    limits = re.findall(r"CPU_(?:Speed|Scheduler)_Limit\s*=\s*(\d+)", report)
    warned = re.search(r"(?:Thermal|Performance) Warning Level\s*[=:]\s*[1-9]", report, re.IGNORECASE)
    return any(int(limit) < 100 for limit in limits) or warned is not None  # noqa: PLR2004 - percent


def is_low_power() -> bool:
    """Tell whether the system saves power: a Mac's low-power mode, Linux's platform profile, or a battery in use."""
    profile = _PROFILE.read_text().strip() if _PROFILE.exists() else ""
    return mac_saves_power(output_of("pmset", "-g")) or profile == "low-power" or _on_battery()


def mac_saves_power(settings: str | None) -> bool:
    """Read `pmset -g`: `lowpowermode 1`, or `powermode 1` on newer systems."""
    found: Mapping[str, str] = dict(re.findall(r"^\s*(lowpowermode|powermode)\s+(\d)", settings or "", re.MULTILINE))
    return "1" in found.values()


def _on_battery() -> bool:
    battery = psutil.sensors_battery()
    return battery is not None and battery.power_plugged is False
