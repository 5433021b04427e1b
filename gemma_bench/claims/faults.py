"""Planting faults, and remembering which were caught, so that a ledger can say `catches 2/2` truthfully."""

import hashlib
import importlib.util
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from gemma_bench.claims.contents import fault_files
from gemma_bench.claims.verdict import Judgement
from gemma_bench.core.errors import DamagedFileError
from gemma_bench.core.files import write_text
from gemma_bench.core.records import SCHEMA, read_model

BASELINE = "baseline"
"""The run of a spec without a fault, in the small configuration of the fault run: what a fault must reverse."""


def planted(name: str, spec_file: Path) -> AbstractContextManager[object]:
    """Return the context manager that plants a fault of the `faults.py`, or of a module of `faults/`, beside a spec."""
    modules = map(_faults_module, fault_files(spec_file))
    fault: Callable[[], AbstractContextManager[object]] = next(filter(None, (getattr(m, name, None) for m in modules)))
    return fault()


@cache
def _faults_module(file: Path) -> object:
    found = importlib.util.spec_from_file_location("planted_faults", file)
    if found is None or found.loader is None:
        raise FileNotFoundError(file)
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def catches(baseline: Judgement, faulty: Judgement) -> bool:
    """Tell whether a check caught a fault: both judgements were decided on evidence, and it reversed.

    A crash, an `invalid` or an `inconclusive` is not a catch: such a check would fail for any reason at all.
    """
    return baseline.verdict.is_decided and faulty.verdict.is_decided and baseline.verdict is not faulty.verdict


class Caught(BaseModel):
    """How many faults each claim's check caught, valid as long as the code is the same."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_by_name=True, serialize_by_alias=True)

    schema_version: int = Field(default=SCHEMA, alias="schema")
    code_sha256: str
    counts: dict[str, int]


def remember(path: Path, counts: dict[str, int], code_sha256: str) -> None:
    """Store the counts of this fault run; a run of some claims adds to what others found for the same code."""
    write_text(path, Caught(code_sha256=code_sha256, counts={**recall(path, code_sha256), **counts}).model_dump_json())


def recall(path: Path, code_sha256: str) -> dict[str, int]:
    """Return the counts of the last fault runs, or none if the code has changed since."""
    if not path.exists():
        return {}
    try:
        caught = read_model(path, Caught, "fault counts", schema_field="schema")
    except DamagedFileError:
        return {}  # a cache: planting the faults again rebuilds it
    return caught.counts if caught.code_sha256 == code_sha256 else {}


def code_digest(root: Path, spec_folders: Iterable[Path]) -> str:
    """Digest the specs and the packages at the root of the project: what decides whether a fault is caught."""
    packages = {file.parent for file in root.glob("*/__init__.py")}
    found = {file for folder in packages | set(spec_folders) for file in folder.rglob("*")}
    digest = hashlib.sha256()
    for file in sorted(file for file in found if file.suffix in (".py", ".csv")):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()
