"""What this machine is: the words that a record needs to be compared, or refused comparison, later."""

import hashlib
import json
import os
import platform
import re
import shutil
import socket
import subprocess
from functools import cache
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict

from gemma_bench.core.units import GIB


class Machine(BaseModel):
    """One computer, as far as a measured figure depends on it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    chip: str
    cores_count: int
    memory_bytes: int
    accelerator: str | None
    accelerator_cores_count: int | None
    os: str


@cache
def this_machine() -> Machine:
    """Describe the machine that runs this."""
    chip = _chip()
    accelerator, gpu_cores = _accelerator()
    cores, memory = os.cpu_count() or 1, psutil.virtual_memory().total
    apple = platform.system() == "Darwin" and chip.startswith("Apple")
    return Machine(
        id=apple_id(chip, gpu_cores, memory) if apple else _generic_id(chip, cores, memory),
        chip=chip,
        cores_count=cores,
        memory_bytes=memory,
        accelerator=accelerator,
        accelerator_cores_count=gpu_cores,
        os=f"{platform.system()} {platform.release()}",
    )


def apple_id(chip: str, gpu_cores: int | None, memory_bytes: int) -> str:
    """Name a Mac by what decides its speed: `Apple M3 Ultra`, 80, 256 GiB → `m3ultra-80c-256gb`."""
    name = chip.removeprefix("Apple ").replace(" ", "").lower()
    return f"{name}-{gpu_cores or 'unknown'}c-{round(memory_bytes / GIB)}gb"


def _generic_id(chip: str, cores: int, memory_bytes: int) -> str:
    words = re.findall(r"[a-z]+", chip.lower())
    family = next((word for word in ("epyc", "xeon", "ryzen", "core", "graviton") if word in words), platform.machine())
    tail = hashlib.sha256(f"{socket.gethostname()}{chip}".encode()).hexdigest()[:4]
    return f"{platform.system().lower()}-{family}-{cores}c-{round(memory_bytes / GIB)}gb-{tail}"


def _chip() -> str:
    if platform.system() == "Darwin":
        return output_of("sysctl", "-n", "machdep.cpu.brand_string") or platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists() and (found := re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)):
        return found.group(1).strip()
    return platform.processor() or platform.machine()


def _accelerator() -> tuple[str | None, int | None]:
    """Return the accelerator's name and core count without importing a tensor library."""
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        return "metal", metal_cores(output_of("system_profiler", "SPDisplaysDataType", "-json"))
    if name := output_of("nvidia-smi", "--query-gpu=name", "--format=csv,noheader"):
        return f"cuda ({name.splitlines()[0]})", None
    return None, None


def metal_cores(profile: str | None) -> int | None:
    """Read the GPU's core count from `system_profiler SPDisplaysDataType -json`; never run on Metal so far."""
    displays = json.loads(profile or "{}").get("SPDisplaysDataType", [])
    counts = [int(display["sppci_cores"]) for display in displays if "sppci_cores" in display]
    return max(counts, default=None)


def output_of(*command: str) -> str | None:
    """Return what a system command prints, or `None` where the system has no such command or it fails."""
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)  # noqa: S603
    return done.stdout.strip() if done.returncode == 0 else None
