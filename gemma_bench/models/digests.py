"""Digests of files, remembered in a stamp, so that opening a large model twice does not read it twice."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from gemma_bench.core.errors import DamagedFileError
from gemma_bench.core.files import Progress, sha256, silent, write_text
from gemma_bench.core.records import SCHEMA, read_model

STAMP = ".gemma_bench.stamp.json"
"""Remembers each file's length and time of change with its digest, so that an unchanged file is hashed once."""


class _Stamp(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA
    files: dict[str, tuple[int, int, str]]


def digests_of(path: Path, names: Sequence[str], progress: Progress = silent) -> dict[str, str]:
    """Hash files, or trust the stamp for those whose length and time of change are still the ones it saw."""
    stamped = _read_stamp(path / STAMP)
    files: dict[str, tuple[int, int, str]] = {}
    for name in dict.fromkeys(names):
        status = (path / name).stat()
        before = stamped.get(name)
        unchanged = before is not None and before[:2] == (status.st_size, status.st_mtime_ns)
        digest = before[2] if before is not None and unchanged else sha256(path / name, progress)
        files[name] = (status.st_size, status.st_mtime_ns, digest)
    if files != stamped and os.access(path, os.W_OK):
        write_text(path / STAMP, _Stamp(files=files).model_dump_json() + "\n")
    return {name: entry[2] for name, entry in files.items()}


def _read_stamp(file: Path) -> Mapping[str, tuple[int, int, str]]:
    """Return what the stamp remembers; a damaged stamp is worth nothing, and everything is hashed again."""
    try:
        return read_model(file, _Stamp, "stamp", "schema_version").files if file.exists() else {}
    except DamagedFileError:
        return {}
