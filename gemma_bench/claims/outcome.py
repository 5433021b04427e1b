"""What one item of a run comes to: which claim and fault it is about, and pytest's outcome for its judgement."""

from typing import Any

import pytest

from gemma_bench.claims.claim import Claim, claim_of
from gemma_bench.claims.contents import MistakeError
from gemma_bench.claims.faults import BASELINE, catches
from gemma_bench.claims.verdict import Judgement, Verdict


def claim_of_item(item: pytest.Item) -> Claim | None:
    """Return the claim whose spec an item runs."""
    return claim_of(getattr(item, "function", None))


def fault_of_item(item: pytest.Item) -> str | None:
    """Return the fault that an item of a fault run plants, `baseline` for none, `None` in an ordinary run."""
    parameters: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    return parameters.get("planted_fault")


def unreadable(specs: list[tuple[pytest.Item, Claim]], readable: set[str]) -> list[MistakeError]:
    """Return the claims that the text of the specs does not show as they run: another decorator name, parameters."""
    mistakes, seen = [], set()
    for item, claim in specs:
        line = (item.location[1] or 0) + 1
        if claim.id not in readable:
            why = f"claim {claim.id} cannot be read from the text: put @claim(…) on a plain function of that file"
            mistakes.append(MistakeError(item.path, line, why))
        if (claim.id, fault_of_item(item)) in seen:
            mistakes.append(MistakeError(item.path, line, f"claim {claim.id} runs twice: a spec takes no parameters"))
        seen.add((claim.id, fault_of_item(item)))
    return mistakes


def expected(claim: Claim, judgement: Judgement) -> tuple[str, str]:
    """Compare a verdict with the expectation that the spec commits."""
    found = f"{claim.id} {judgement.verdict}"
    if judgement.verdict is Verdict.NOT_RUN:
        return "skipped", judgement.reason
    if judgement.verdict is Verdict.BROKEN:
        return "failed", f"{found}: {judgement.reason}"
    if judgement.verdict.is_decided and claim.expect not in ("open", judgement.verdict.value):
        why = f"measured {judgement.measured}, allowed {judgement.allowed}"
        return "failed", f"{found}, expected {claim.expect}: {why}. {judgement.reason}\n{claim.sentence}"
    return "passed", ""


def caught_fault(claim: Claim, fault: str, baseline: Judgement | None, judgement: Judgement) -> tuple[str, str]:
    """Tell whether a check caught a fault, or, for the baseline, whether there is a verdict to reverse."""
    if baseline and _has_nothing_to_reverse(claim, baseline):
        return "skipped", baseline.reason
    if fault == BASELINE:
        outcome, text = expected(claim, judgement)
        if outcome == "passed" and not judgement.verdict.is_decided:
            return (
                "failed",
                f"{claim.id} is {judgement.verdict} without a fault, so none can reverse it: {judgement.reason}",
            )
        return outcome, text
    if baseline and catches(baseline, judgement):
        return "passed", ""
    before = baseline.verdict if baseline else "unknown"
    why = f"{before} before, {judgement.verdict} with it ({judgement.measured or judgement.reason})"
    return "failed", f"{claim.id} does not catch {fault}: {why}"


def _has_nothing_to_reverse(claim: Claim, baseline: Judgement) -> bool:
    """Tell whether a claim was not run, or rests on a record that leaves it open: no rerun settles that."""
    return baseline.verdict is Verdict.NOT_RUN or (claim.kind == "recorded" and baseline.verdict.is_open)


def settle(report: pytest.TestReport, outcome: str, text: str, verdict: Verdict) -> None:
    """Write an outcome into a report; the traceback of a crashed check stays."""
    if outcome == "skipped":
        report.longrepr = (str(report.fspath), report.location[1] or 0, text)
    elif outcome == "passed":
        report.longrepr = None
    elif verdict is not Verdict.BROKEN or report.longrepr is None:
        report.longrepr = text
    report.outcome = outcome  # type: ignore[assignment]
    report.verdict = verdict.value  # type: ignore[attr-defined]
