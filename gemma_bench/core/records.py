"""Records: frozen, flat results with their provenance, written once and never edited."""

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from gemma_bench.core.errors import DamagedFileError
from gemma_bench.core.files import read_text, write_text
from gemma_bench.core.machine import this_machine

SCHEMA = 1
LIBRARIES = ("torch", "transformers", "mlx", "mlx-lm", "peft", "numpy")


class Subject(BaseModel):
    """What was measured: a model in one precision, or nothing but arithmetic."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_id: str | None = None
    weights_sha256: str | None = None
    weights_origin: str | None = None
    dtype: str | None = None
    seed: int | None = None


class Record(Subject):
    """What every record holds beside its own figures: who measured, where, when, with what."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    schema_version: int = SCHEMA
    experiment: str
    experiment_version: int
    config_json: str
    scale: str
    date_utc: str
    commit: str | None
    commit_is_clean: bool
    machine_id: str
    chip: str
    cores_count: int
    memory_bytes: int
    accelerator: str | None
    os: str
    python: str
    libraries: dict[str, str]
    load_average_1min: float
    samples: tuple[float, ...]

    @classmethod
    def measured(cls, subject: Subject, **fields: Any) -> Self:
        """Make a record of this class from its own figures and the provenance of this very moment."""
        return cls(**provenance(), **subject.model_dump(), **fields)

    @property
    def file_name(self) -> str:
        """`<UTC>-<machine>-<commit8>-<config8>.json`: sorts by time; no two collide, made in one second or not."""
        stamp = self.date_utc.replace("-", "").replace(":", "")
        config = hashlib.sha256(self.config_json.encode()).hexdigest()[:8]
        return f"{stamp}-{self.machine_id}-{(self.commit or 'nocommit')[:8]}-{config}.json"


class BareRecord(Record):
    """What every record holds, whatever its experiment adds."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


AnyRecord = TypeVar("AnyRecord", bound=Record)


def provenance() -> dict[str, Any]:
    """Collect what a record says about machine, code and moment."""
    machine, (commit, is_clean) = this_machine(), code_here()
    return {
        "date_utc": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "commit": commit,
        "commit_is_clean": is_clean,
        "machine_id": machine.id,
        "chip": machine.chip,
        "cores_count": machine.cores_count,
        "memory_bytes": machine.memory_bytes,
        "accelerator": machine.accelerator,
        "os": machine.os,
        "python": platform.python_version(),
        "libraries": dict(_library_versions()),
        "load_average_1min": round(os.getloadavg()[0], 2),
    }


def write_record(record: Record, results: Path) -> Path:
    """Write a record under `results/records/<experiment>/`, whole or not at all; refuse to replace one."""
    path = results / "records" / record.experiment / record.file_name
    if path.exists():
        raise DamagedFileError(f"record {path} exists already: records are superseded, never edited")
    write_text(path, record.model_dump_json(indent=1) + "\n")
    return path


def read_record(path: Path, kind: type[AnyRecord]) -> AnyRecord:
    """Read one record; an unknown field, a wrong type or an older schema names file and field."""
    return read_model(path, kind, "record", schema_field="schema_version")


def columns(rows: Sequence[Mapping[str, Any]], prefix: str = "") -> dict[str, tuple[Any, ...]]:
    """Return rows of the same names as a record keeps them, a tuple per name, behind a prefix; no rows have none."""
    return {f"{prefix}{name}": tuple(row[name] for row in rows) for name in rows[0]} if rows else {}


def anything(_: object) -> bool:
    """Choose every record."""
    return True


def newest_record(
    results: Path,
    experiment: str,
    kind: type[AnyRecord],
    *,
    version: int | None = None,
    where: Callable[[AnyRecord], bool] = anything,
) -> tuple[Path, AnyRecord] | None:
    """Return the newest record of an experiment that a clean commit made, or `None`.

    With `version` only records of that version of the experiment are read, with `where` only those that it chooses:
    `where=lambda record: record.scale == "study"`.
    """
    for path, bare in clean_records(results, experiment):
        if version in (None, bare.experiment_version) and where(record := read_record(path, kind)):
            return path, record
    return None


def clean_records(results: Path, experiment: str) -> Iterator[tuple[Path, BareRecord]]:
    """Yield what all records have in common of those that clean commits made, the newest first."""
    for path in sorted((results / "records" / experiment).glob("*.json"), reverse=True):
        bare = read_record(path, BareRecord)
        if bare.commit_is_clean:
            yield path, bare


AnyModel = TypeVar("AnyModel", bound=BaseModel)


def read_model(path: Path, kind: type[AnyModel], what: str, schema_field: str) -> AnyModel:
    """Read a JSON file into a pydantic model, with one error that names the file and the field."""
    try:
        data = json.loads(read_text(path, what), parse_constant=_refuse_constant)
    except ValueError as error:
        raise DamagedFileError(f"{what} {path} is not JSON: {error}") from error
    found = data.get(schema_field) if isinstance(data, dict) else None
    if found != SCHEMA:
        raise DamagedFileError(f"{what} {path}: {schema_field} must be {SCHEMA}, got {found!r}")
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "(whole file)"
        raise DamagedFileError(f"{what} {path}, field {field}: {first['msg']}") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number; unmeasured is null")


def _library_versions() -> Iterator[tuple[str, str]]:
    for library in LIBRARIES:
        try:
            yield library, version(library)
        except PackageNotFoundError:
            continue


def code_here() -> tuple[str | None, bool]:
    """Return the commit of the checkout we run in and whether its tracked files are unchanged.

    A plain copy of a clean checkout knows no commit; who made it may name it in `GEMMA_BENCH_COMMIT`.
    """
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        named = os.environ.get("GEMMA_BENCH_COMMIT")
        return named, named is not None
    return commit, _git("status", "--porcelain", "--untracked-files=no") == ""


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)  # noqa: S603, S607
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
