"""How much more memory this process may take: what the system can give, within the limits of a container."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil


class _Files(NamedTuple):
    """Where a control group says what it may take and takes; the cache is given back before anything is refused."""

    limit: str
    usage: str
    cache: str


_V1 = _Files("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = _Files("memory.max", "memory.current", "inactive_file")
_NO_LIMIT = "max"


def available_bytes(root: Path = Path("/")) -> int:
    """Return what can be taken without swapping, in the host's memory and in every control group around this process.

    `root` is where `/proc` and `/sys` are.
    """
    return max(0, min((int(psutil.virtual_memory().available), *_left_in_groups(root))))


def _left_in_groups(root: Path) -> Iterator[int]:
    """Yield what each group leaves; systems other than Linux have none."""
    groups = root / "proc/self/cgroup"
    for line in groups.read_text(encoding="utf-8").splitlines() if groups.exists() else ():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            yield from _left(root / "sys/fs/cgroup", path, _V2)
        elif "memory" in controllers.split(","):
            yield from _left(root / "sys/fs/cgroup/memory", path, _V1)


def _left(mount: Path, path: str, files: _Files) -> Iterator[int]:
    """Yield what a group and those around it leave; inside a container only some of them can be seen."""
    group = mount / path.lstrip("/")
    for folder in (group, *group.parents):
        if (folder / files.limit).exists() and (folder / files.usage).exists():
            limit = (folder / files.limit).read_text(encoding="utf-8").strip()
            if limit != _NO_LIMIT:
                used = int((folder / files.usage).read_text(encoding="utf-8"))
                yield int(limit) - used + _cache_bytes(folder, files.cache)
        if folder == mount:
            return


def _cache_bytes(folder: Path, name: str) -> int:
    lines = (line.split() for line in (folder / "memory.stat").read_text(encoding="utf-8").splitlines())
    return sum(int(count) for found, count in lines if found == name)
