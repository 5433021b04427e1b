"""The pytest plugin: specs under `@claim` are judged, not only passed, and the run ends with a ledger."""

import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from gemma_bench.claims.claim import SCALES, claim_of
from gemma_bench.claims.contents import contents_lines, read_specs
from gemma_bench.claims.evidence import JUDGEMENT, RECORD, SUBJECT, StaleRecordError
from gemma_bench.claims.faults import BASELINE
from gemma_bench.claims.ledger import Ledger
from gemma_bench.claims.run import COULD_NOT_RUN, ClaimRun
from gemma_bench.claims.verdict import Allowed, Measured, decide
from gemma_bench.core.errors import GemmaBenchError, UnavailableError
from gemma_bench.core.records import AnyRecord, BareRecord, Subject, anything, newest_record

MARKERS = (
    "hardware: a claim about a named machine",
    "weights: needs real weights",
    "slow: a claim above fixture scale",
)
_NARROWEST_TABLE = 120


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of a run of claims."""
    flag = parser.getgroup("claims", "research claims as specs (gemma_bench)").addoption
    flag("--contents", action="store_true", help="list the claims without importing or running any spec")
    flag("--faults", action="store_true", help="plant every claim's faults and see that its check catches them")
    flag("--scale", default="fixture", choices=SCALES, help="run claims up to this scale (default: fixture)")
    flag("--ledger", metavar="FILE", help="write the ledger there as JSON, besides build/ledger.json")
    flag("--record", action="store_true", help="write ledger and records under results/ instead of build/")
    flag("--strict-claims", action="store_true", help="exit 3 if a claim is inconclusive, invalid or stale")
    flag("--require-hardware", action="store_true", help="exit 3 if a claim about named hardware was not run")


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers and the object that follows the run."""
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    option = config.option
    if option.record and (option.keyword or option.markexpr):
        pytest.exit("--record keeps the whole ledger: leave out -k and -m", COULD_NOT_RUN)
    if option.record and getattr(option, "numprocesses", None):
        pytest.exit(
            "--record runs one claim at a time, so that none is timed beside another: leave out -n", COULD_NOT_RUN
        )
    config.pluginmanager.register(ClaimRun(config), "gemma_bench.claims.run")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Where pytest-xdist runs faults in several processes, keep a claim's together: they reverse its baseline."""
    if not config.option.faults:
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ByClaim(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return nodeid.partition("[")[0]

    return ByClaim(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """Answer `--contents` from the text of the specs, before anything is imported.

    Where pytest-xdist is to run them, their mistakes are told here too: its processes cannot stop the run.
    """
    is_shared_out = bool(getattr(config.option, "numprocesses", None))
    if not (config.option.contents or is_shared_out):
        return None
    try:
        specs, mistakes = read_specs([Path(argument.partition("::")[0]) for argument in config.args])
    except GemmaBenchError as error:
        sys.stderr.write(f"error: {error}\n")
        return COULD_NOT_RUN
    for line in contents_lines(specs) if config.option.contents else ():
        sys.stdout.write(f"{line}\n")
    for mistake in mistakes:
        sys.stdout.write(f"error: {mistake}\n")
    if mistakes:
        return COULD_NOT_RUN
    return 0 if config.option.contents else None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """In a fault run, give every claim one item without a fault and one for each of its faults."""
    claim = claim_of(metafunc.function)
    if claim and metafunc.config.option.faults:
        metafunc.fixturenames.append("planted_fault")
        metafunc.parametrize("planted_fault", [BASELINE, *claim.faults])


@pytest.fixture
def judge(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Hand a measured value to the one judgement that a spec makes: `judge(measured, at_most(1e-5), "why")`."""
    stash = request.node.stash

    def judge_once(measured: Measured, allowed: Allowed, reason: str = "", *, subject: Subject | None = None) -> None:
        if JUDGEMENT in stash:
            raise RuntimeError("a spec makes one judgement, this is its second")
        stash[JUDGEMENT] = decide(measured, allowed, reason).model_copy(update={"record": stash.get(RECORD, None)})
        stash[SUBJECT] = subject or Subject()

    return judge_once


@pytest.fixture
def recorded(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Return the newest clean record of an experiment: `recorded("capacity_scaling", CapacityRecord, version=2)`.

    `where=lambda record: record.scale == "study"` chooses among configurations. Without one the claim is `not run`, or
    `stale` where the experiment's newest one is of another version.
    """
    root = request.config.rootpath

    def newest(
        experiment: str, kind: type[AnyRecord], *, version: int, where: Callable[[AnyRecord], bool] = anything
    ) -> AnyRecord:
        found = newest_record(root / "results", experiment, kind, version=version, where=where)
        if found is not None:
            path, record = found
            request.node.stash[RECORD] = path.relative_to(root).as_posix()
            return record
        other = newest_record(root / "results", experiment, BareRecord)
        if other is not None and other[1].experiment_version != version:
            path, bare = other
            request.node.stash[RECORD] = path.relative_to(root).as_posix()
            raise StaleRecordError(
                f"{path.name} is of version {bare.experiment_version}, the experiment is at {version}"
            )
        which = "" if where is anything else ", of the configuration that the claim is about,"
        raise UnavailableError("record", f"no clean record of experiment {experiment}{which} under results/records")

    return newest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """End the run with the ledger, or with what each check caught."""
    run = config.pluginmanager.get_plugin("gemma_bench.claims.run")
    if run is None or not run.judged:
        return
    terminalreporter.section("ledger" if run.ledger else "faults")
    if run.ledger:
        terminalreporter.write(_drawn(run.ledger, config.get_terminal_writer().fullwidth, terminalreporter.hasmarkup))
    for name, caught in run.fault_counts().items():
        terminalreporter.write_line(f"{name:<9} catches {caught}/{len(run.claims[name].faults)}")
    if run.problem:
        terminalreporter.write_line(f"error: {run.problem}", red=True)


def _drawn(ledger: Ledger, width: int, has_colour: bool) -> str:
    from rich.console import Console

    from gemma_bench.claims.table import ledger_table

    drawn = StringIO()
    console = Console(file=drawn, width=max(width, _NARROWEST_TABLE), force_terminal=has_colour)
    console.print(ledger_table(ledger))
    return drawn.getvalue()
