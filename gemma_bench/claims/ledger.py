"""The ledger: every claim, the evidence found on one machine, an interval, a verdict."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from gemma_bench.claims.claim import Claim, Expectation, Kind, Scale
from gemma_bench.claims.verdict import Allowed, Judgement, Verdict
from gemma_bench.core.files import write_text
from gemma_bench.core.machine import Machine
from gemma_bench.core.records import SCHEMA, read_model


class Figure(BaseModel):
    """A measured figure as the ledger keeps it: without its samples, which are in the record."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    value: float
    low: float
    high: float
    unit: str


class Entry(BaseModel):
    """One claim's line."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    id: str
    version: int
    headline: str
    sentence: str
    kind: Kind
    scale: Scale
    source: str
    expect: Expectation
    verdict: Verdict
    measured: Figure | None
    allowed: Allowed | None
    reason: str
    faults_caught: int | None
    faults_total: int
    record: str | None
    duration_s: float

    @property
    def is_contradicted(self) -> bool:
        """Whether a decided verdict is not the expected one, or the check itself crashed."""
        if self.verdict is Verdict.BROKEN:
            return True
        return self.verdict.is_decided and self.expect not in ("open", self.verdict.value)


class Ledger(BaseModel):
    """All claims of one run on one machine."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_by_name=True, serialize_by_alias=True)

    schema_version: int = Field(default=SCHEMA, alias="schema")
    machine: Machine
    claims: tuple[Entry, ...]

    def by_headline(self) -> dict[str, list[Entry]]:
        """Group the claims under the published sentence that each is about, in the order of the specs."""
        groups: dict[str, list[Entry]] = {}
        for entry in self.claims:
            groups.setdefault(entry.headline, []).append(entry)
        return groups

    def counts(self) -> dict[str, int]:
        """Count the claims by verdict, leaving out verdicts that none has."""
        counts = {verdict.value: sum(entry.verdict is verdict for entry in self.claims) for verdict in Verdict}
        return {verdict: count for verdict, count in counts.items() if count}


def entry(claim: Claim, judgement: Judgement, *, faults_caught: int | None, duration_s: float) -> Entry:
    """Write a claim and the judgement on it as one line."""
    measured = judgement.measured
    return Entry(
        **claim.model_dump(exclude={"faults"}),
        verdict=judgement.verdict,
        measured=Figure(**measured.model_dump(exclude={"samples"})) if measured else None,
        allowed=judgement.allowed,
        reason=judgement.reason,
        faults_caught=faults_caught,
        faults_total=len(claim.faults),
        record=judgement.record,
        duration_s=round(duration_s, 3),
    )


def write_ledger(ledger: Ledger, path: Path) -> None:
    """Write the ledger as JSON, whole or not at all."""
    write_text(path, ledger.model_dump_json(indent=1) + "\n")


def read_ledger(path: Path) -> Ledger:
    """Read a ledger; an unknown field, a NaN or an older schema is an error that names file and field."""
    return read_model(path, Ledger, "ledger", schema_field="schema")
