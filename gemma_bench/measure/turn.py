"""One measurement at a time on a machine: a file that names the process whose turn it is."""

import getpass
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from gemma_bench.core.files import explained


def turn_file() -> Path:
    """Return the file that all benchmarks of one user share: another user's could not be removed once stale."""
    with explained(Path("the file of whose turn it is")):
        return Path(tempfile.gettempdir()) / f"gemma_bench-{getpass.getuser()}.turn"


@contextmanager
def turn(path: Path | None = None) -> Iterator[int | None]:
    """Take the turn and yield `None`, or yield the process that has it; a dead process has lost it."""
    file = path or turn_file()
    with explained(file):
        other = _take(file)
    try:
        yield other
    finally:
        if other is None:
            file.unlink(missing_ok=True)


def _take(file: Path) -> int | None:
    """Put a file with our number into place, which only one process can; one that names nobody is removed first."""
    ours = file.with_name(f"{file.name}.{os.getpid()}")
    ours.write_text(str(os.getpid()))
    try:
        while True:
            try:
                file.hardlink_to(ours)
            except FileExistsError:
                holder = _holder(file)
                if holder is not None:
                    return holder
                file.unlink(missing_ok=True)
            else:
                return None
    finally:
        ours.unlink()


def _holder(file: Path) -> int | None:
    """Return the other living process that a file names; an unreadable one names nobody."""
    try:
        pid = int(file.read_text())
    except (ValueError, FileNotFoundError):
        return None
    return pid if pid != os.getpid() and psutil.pid_exists(pid) else None
