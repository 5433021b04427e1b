"""From what a spec did to a judgement, and from a judgement to a record that outlives the run."""

from pathlib import Path

import pytest

from gemma_bench.claims.claim import Claim
from gemma_bench.claims.verdict import Allowed, Judgement, Verdict
from gemma_bench.core.errors import InvalidRunError, UnavailableError
from gemma_bench.core.records import Record, Subject, write_record

JUDGEMENT = pytest.StashKey[Judgement]()
RECORD = pytest.StashKey[str]()
SUBJECT = pytest.StashKey[Subject]()


class StaleRecordError(Exception):
    """The newest record was made by an experiment that has moved on since."""


class ClaimRecord(Record):
    """The evidence of one measured claim."""

    claim_id: str
    claim_version: int
    verdict: Verdict
    value: float
    low: float
    high: float
    unit: str
    allowed: Allowed
    reason: str


def judgement_of(item: pytest.Item, error: BaseException | None) -> Judgement:
    """Return the judgement that a spec made, or say why there is none."""
    if error is None and JUDGEMENT in item.stash:
        return item.stash[JUDGEMENT]
    verdict, reason = _without_judgement(error)
    return Judgement(verdict=verdict, reason=reason, record=item.stash.get(RECORD, None))


def _without_judgement(error: BaseException | None) -> tuple[Verdict, str]:
    match error:
        case None:
            return Verdict.BROKEN, "the spec ended without a judgement"
        case UnavailableError():
            return Verdict.NOT_RUN, f"{error.missing}: {error}"
        case InvalidRunError():
            return Verdict.INVALID, f"{error.rule}: {error}"
        case StaleRecordError():
            return Verdict.STALE, str(error)
        case pytest.skip.Exception():
            return Verdict.NOT_RUN, str(error)
        case _:
            return Verdict.BROKEN, f"{type(error).__name__}: {error}"


def keep(claim: Claim, judgement: Judgement, subject: Subject, results: Path) -> Path:
    """Write the evidence of a measured claim as a record and return where."""
    measured = judgement.measured
    if measured is None:
        raise ValueError(f"claim {claim.id} has no measured value to keep")
    record = ClaimRecord.measured(
        subject,
        experiment=f"claim_{claim.id.lower().replace('-', '_')}",
        experiment_version=claim.version,
        config_json="{}",
        scale=claim.scale,
        samples=measured.samples or (measured.value,),
        claim_id=claim.id,
        claim_version=claim.version,
        verdict=judgement.verdict,
        **measured.model_dump(exclude={"samples"}),
        allowed=judgement.allowed,
        reason=judgement.reason,
    )
    return write_record(record, results)
