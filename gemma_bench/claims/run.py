"""One run of claims, followed through pytest's hooks: from collected specs to verdicts, ledger and exit code."""

from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path

import pytest
from _pytest.runner import runtestprotocol
from pydantic import BaseModel, ConfigDict

from gemma_bench.claims import evidence
from gemma_bench.claims.claim import SCALES, Claim
from gemma_bench.claims.contents import read_specs
from gemma_bench.claims.faults import BASELINE, catches, code_digest, planted, recall, remember
from gemma_bench.claims.ledger import Entry, Ledger, entry, write_ledger
from gemma_bench.claims.outcome import caught_fault, claim_of_item, expected, fault_of_item, settle, unreadable
from gemma_bench.claims.verdict import Judgement, Verdict
from gemma_bench.core.errors import GemmaBenchError, UnavailableError
from gemma_bench.core.machine import this_machine
from gemma_bench.core.records import Subject

INTERRUPTED, UNDECIDED, COULD_NOT_RUN = 130, 3, 2
"""Exit codes beside pytest's own 0 and 1."""

_PLANTED = pytest.StashKey[ExitStack]()
_SETUP_S = pytest.StashKey[float]()


class Judged(BaseModel):
    """What one item found, as its report carries it: to the process that started this one too, where there is one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    claim: Claim
    fault: str | None
    judgement: Judgement
    subject: Subject
    duration_s: float


class ClaimRun:
    """Collects the judgements of one session, whose items may run in processes of pytest-xdist."""

    def __init__(self, config: pytest.Config) -> None:
        """Start with nothing collected."""
        self.config = config
        self.files: list[Path] = []
        self.folders: set[Path] = set()
        self.written: set[str] = set()
        self.claims: dict[str, Claim] = {}
        self.judged: dict[tuple[str, str | None], Judged] = {}
        self.ledger: Ledger | None = None
        self.problem = ""
        self.was_interrupted = False

    def pytest_collect_file(self, file_path: Path) -> None:
        """Remember which files may hold specs; collecting them stays pytest's business."""
        if file_path.suffix == ".py" and "@claim(" in file_path.read_text(encoding="utf-8", errors="replace"):
            self.files.append(file_path)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Stop on any mistake in a spec, before one executes; then mark the claims for `-m`."""
        try:
            written, mistakes = read_specs(dict.fromkeys(self.files))
        except GemmaBenchError as error:
            pytest.exit(str(error), COULD_NOT_RUN)
        specs = [(item, claim) for item in items if (claim := claim_of_item(item))]
        self.written = {spec.claim.id for spec in written}
        mistakes += unreadable(specs, self.written)
        if mistakes:
            pytest.exit("\n".join(["mistakes in specs, nothing was run", *map(str, mistakes)]), COULD_NOT_RUN)
        self.claims = {claim.id: claim for _, claim in specs}
        for item, claim in specs:
            if claim.kind == "hardware":
                item.add_marker("hardware")
            if claim.scale != "fixture":
                item.add_marker("slow")
        if config.option.faults:
            config.hook.pytest_deselected(items=[item for item in items if not claim_of_item(item)])
            items[:] = [item for item, _ in specs]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> bool | None:
        """Run an item of a fault run with nothing kept for the next: no fixture is served from a cache."""
        if fault_of_item(item) is None:
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        item.stash[_PLANTED] = ExitStack()
        runtestprotocol(item, nextitem=None)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Leave out what is above the chosen scale; plant the fault before any fixture is made."""
        claim, fault = claim_of_item(item), fault_of_item(item)
        if claim and claim.kind != "recorded" and SCALES.index(claim.scale) > SCALES.index(self.config.option.scale):
            raise UnavailableError("time", f"run it with --scale {claim.scale}")
        if fault not in (None, BASELINE):
            item.stash[_PLANTED].enter_context(planted(fault, item.path))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, None, None]:
        """Take the fault out again, after the fixtures that were made under it."""
        try:
            yield
        finally:
            if _PLANTED in item.stash:
                item.stash[_PLANTED].close()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Turn what a spec did into a judgement, and the judgement into pytest's outcome."""
        report = yield
        claim = claim_of_item(item)
        if claim is None or report.when == "teardown":
            return report
        duration_s = item.stash.get(_SETUP_S, 0.0) + report.duration
        item.stash[_SETUP_S] = duration_s
        if report.when == "setup" and call.excinfo is None:
            return report
        judgement = evidence.judgement_of(item, call.excinfo.value if call.excinfo else None)
        fault, subject = fault_of_item(item), item.stash.get(evidence.SUBJECT, Subject())
        found = Judged(claim=claim, fault=fault, judgement=judgement, subject=subject, duration_s=duration_s)
        report.judged = found.model_dump_json()  # type: ignore[attr-defined]
        if fault is None:
            outcome, text = expected(claim, judgement)
        else:
            baseline = found if fault == BASELINE else self.judged.get((claim.id, BASELINE))
            outcome, text = caught_fault(claim, fault, baseline.judgement if baseline else None, judgement)
        if call.excinfo and isinstance(call.excinfo.value, GemmaBenchError):
            report.longrepr = None  # one sentence that a user can act on needs no traceback
        if report.when == "setup" and outcome == "passed":
            outcome = "skipped"  # after a setup that passed pytest would run the spec, without its evidence
        settle(report, outcome, text, judgement.verdict)
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take in what an item found, in the process that ran it and in the one that writes the ledger."""
        text = getattr(report, "judged", None)
        if text is None:
            return
        found = Judged.model_validate_json(text)
        self.claims[found.claim.id] = found.claim
        self.judged[found.claim.id, found.fault] = found
        self.folders.add((self.config.rootpath / report.fspath).parent)

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        """Show verdicts where pytest shows outcomes."""
        verdict = getattr(report, "verdict", None)
        if verdict is None:
            return None
        letter = "F" if report.failed else {"holds": ".", "not run": "s"}.get(verdict, verdict[0])
        return report.outcome, letter, verdict.upper()

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Note Ctrl-C, which ends with its own exit code and no ledger; pytest interrupts itself the same way."""
        self.was_interrupted = type(excinfo.value) is KeyboardInterrupt

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Write ledger or fault counts and give the run its exit code, unless this is a process of pytest-xdist."""
        if hasattr(self.config, "workerinput"):
            return
        if self.was_interrupted and self.claims:
            session.exitstatus = INTERRUPTED
        elif exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and self.claims:
            session.exitstatus = COULD_NOT_RUN
        elif self.judged:
            try:
                self._write()
            except GemmaBenchError as error:
                self.problem, session.exitstatus = str(error), COULD_NOT_RUN
            if session.exitstatus == pytest.ExitCode.OK and self._is_undecided():
                session.exitstatus = UNDECIDED

    def _write(self) -> None:
        root, option = self.config.rootpath, self.config.option
        code, store = code_digest(root, self.folders), root / "build" / "faults.json"
        if option.record and self.missing:
            raise GemmaBenchError(
                f"--record keeps the whole ledger, {len(self.missing)} claims were left out of this run"
            )
        if option.faults:
            remember(store, self.fault_counts(), code)
            return
        caught, lines = recall(store, code), []
        for (name, _), found in self.judged.items():
            claim, judgement = found.claim, found.judgement
            if option.record and claim.kind in ("measured", "hardware") and judgement.measured:
                path = evidence.keep(claim, judgement, found.subject, root / "results")
                judgement = judgement.model_copy(update={"record": path.relative_to(root).as_posix()})
            lines.append(entry(claim, judgement, faults_caught=caught.get(name), duration_s=found.duration_s))
        self.ledger = Ledger(machine=this_machine(), claims=tuple(lines))
        for path in {
            root / ("results" if option.record else "build") / "ledger.json",
            *([Path(option.ledger)] if option.ledger else []),
        }:
            write_ledger(self.ledger, path)

    @property
    def missing(self) -> set[str]:
        """The claims that the files hold and this run did not judge."""
        return self.written - {name for name, _ in self.judged}

    def fault_counts(self) -> dict[str, int]:
        """Count, for every claim whose baseline was decided, the faults that its check caught."""
        made = {key: found.judgement for key, found in self.judged.items()}
        baselines = {name: judgement for (name, fault), judgement in made.items() if fault == BASELINE}
        return {
            name: sum(catches(baseline, made[name, fault]) for fault in self.claims[name].faults)
            for name, baseline in baselines.items()
            if baseline.verdict.is_decided and all((name, fault) in made for fault in self.claims[name].faults)
        }

    def _is_undecided(self) -> bool:
        entries: tuple[Entry, ...] = self.ledger.claims if self.ledger else ()
        strict, hardware = self.config.option.strict_claims, self.config.option.require_hardware
        return any(
            (strict and line.verdict.is_open)
            or (hardware and line.kind == "hardware" and line.verdict is Verdict.NOT_RUN)
            for line in entries
        )
