"""Writing that survives a kill: everything is built beside its place and moved there in one step."""

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gemma_bench.core.errors import DamagedFileError, GemmaBenchError

Progress = Callable[[str, int, int], None]
"""Called with (what, done, total) while something slow goes on; the command line draws a bar from it."""

_CHUNK_BYTES = 1 << 20


def silent(what: str, done: int, total: int) -> None:
    """Ignore progress: the default of every library function that reports it."""


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals while writing `path` into one clear error."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise GemmaBenchError(
                f"no room on disk for {path}: free some and try again, nothing was left behind"
            ) from error
        raise GemmaBenchError(f"cannot write {path}: {error.strerror}") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with new_file(path) as partial:
        partial.write_bytes(content)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a place for a file that becomes `path` when the block ends well and vanishes when it does not."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `path` when the block ends well and vanishes when it does not.

    What a killed process left half-built is removed by the next one that builds the same folder.
    """
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in path.parent.glob(f".{path.name}.partial-*"):
            if not _is_running(int(leftover.name.rpartition("-")[2])):
                shutil.rmtree(leftover)
        partial = path.parent / f".{path.name}.partial-{os.getpid()}"
        try:
            partial.mkdir()
            yield partial
            if path.exists():
                shutil.rmtree(path)
            partial.replace(path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid != os.getpid()


def sha256(path: Path, progress: Progress = silent) -> str:
    """Hash a file in chunks."""
    digest, done, total = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
            done += len(chunk)
            progress(f"checking {path.name}", done, total)
    return digest.hexdigest()


def read_text(path: Path, what: str) -> str:
    """Read a UTF-8 text file that a user named; `what` says in the error what it should have been."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DamagedFileError(f"{what} {path} is not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise DamagedFileError(f"{what} {path} cannot be read: {error.strerror}") from error
