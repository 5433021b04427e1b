import json
import os
import signal
import subprocess
import sys
import time

import pytest

HEAD = """
from gemma_bench.claims import InvalidRunError, Measured, UnavailableError, at_least, claim
def speed():
    return 80
"""


def spec(name, body, *, expect="holds", kind="measured", faults=("slow",), scale="fixture"):
    return f'''
@claim(id="{name}", version=1, headline="It is fast", kind="{kind}", source="a blog", expect="{expect}",
       scale="{scale}", faults={list(faults)!r})
def test_{name.lower().replace("-", "_")}(judge):
    """Claim {name} is true."""
    {body}
'''


JUDGE = 'judge(Measured.exact(speed(), "tok/s"), at_least(75))'
FAULTS = """
from unittest.mock import patch
import test_speed
def slow(): return patch.object(test_speed, "speed", lambda: 40)
def harmless(): return patch.object(test_speed, "speed", lambda: 90)
def crash(): return patch.object(test_speed, "speed", lambda: 1 / 0)
def unplantable(): raise RuntimeError("cannot plant")
"""

EVERY_VERDICT = HEAD + "".join(
    [
        spec("H-1", JUDGE),
        spec("R-1", 'judge(Measured.exact(70, "tok/s"), at_least(75), "too slow")', expect="refuted"),
        spec("U-1", 'judge(Measured(value=76, low=70, high=82, unit="tok/s", samples=[70, 76, 82]), at_least(75))'),
        spec("I-1", 'raise InvalidRunError("throttled", "the chip was hot")'),
        spec("N-1", 'raise UnavailableError("metal", "needs a Mac")', kind="hardware", expect="open"),
        spec("T-1", JUDGE, scale="study"),
    ]
)


def ledger(project):
    return {line["id"]: line for line in json.loads((project.root / "build/ledger.json").read_text())["claims"]}


def test_every_verdict_and_the_strict_exit_code(project):
    project.write("test_speed", EVERY_VERDICT)
    project.write("faults", FAULTS)
    done = project.pytest("specs", "--ledger", "mine.json")
    assert done.returncode == 0, done.stdout
    found = ledger(project)
    assert {name: line["verdict"] for name, line in found.items()} == {
        "H-1": "holds",
        "R-1": "refuted",
        "U-1": "inconclusive",
        "I-1": "invalid",
        "N-1": "not run",
        "T-1": "not run",
    }
    assert found["R-1"]["measured"] == {"value": 70.0, "low": 70.0, "high": 70.0, "unit": "tok/s"}
    assert found["R-1"]["allowed"] == {"low": 75.0, "high": None}
    assert found["I-1"]["reason"] == "throttled: the chip was hot"
    assert found["N-1"]["reason"] == "metal: needs a Mac"
    assert found["T-1"]["reason"] == "time: run it with --scale study"
    assert found["H-1"]["faults_caught"] is None
    assert found["H-1"]["faults_total"] == 1
    assert (project.root / "mine.json").read_text() == (project.root / "build/ledger.json").read_text()
    for words in ("It is fast", "Claim R-1 is true.", "76 [70, 82] tok/s", "?/1", "6 claims on", "1 inconclusive"):
        assert words in done.stdout
    assert project.pytest("specs", "--strict-claims").returncode == 3
    assert project.pytest("specs", "--require-hardware").returncode == 3
    assert project.pytest("specs", "--strict-claims", "-k", "h_1 or r_1").returncode == 0
    scaled = project.pytest("specs", "--scale", "study", "-k", "t_1")
    assert "1 holds" in scaled.stdout


@pytest.mark.parametrize(
    ("body", "expect", "words"),
    [
        (JUDGE, "refuted", "X-1 holds, expected refuted: measured 80 tok/s, allowed ≥ 75"),
        ("1 / 0", "holds", "ZeroDivisionError"),
        ("pass", "open", "the spec ended without a judgement"),
        (f"{JUDGE}; {JUDGE}", "holds", "a spec makes one judgement"),
        ('judge(Measured.exact(float("nan"), "tok/s"), at_least(75))', "open", "finite number"),
    ],
)
def test_a_contradicted_or_broken_check_fails_the_run(project, body, expect, words):
    project.write("test_speed", HEAD + spec("X-1", body, expect=expect))
    project.write("faults", FAULTS)
    done = project.pytest()
    assert done.returncode == 1
    assert words in done.stdout


def test_an_open_claim_never_fails_the_run(project):
    project.write("test_speed", HEAD + spec("X-1", 'judge(Measured.exact(72, "tok/s"), at_least(75))', expect="open"))
    project.write("faults", FAULTS)
    assert project.pytest().returncode == 0


def test_faults_are_caught_only_by_a_reversed_judgement(project):
    text = HEAD + spec("A-1", JUDGE, faults=["slow"]) + spec("B-1", JUDGE, faults=["slow", "harmless", "crash"])
    project.write("test_speed", text + spec("C-1", JUDGE, faults=["unplantable"]))
    project.write("faults", FAULTS)
    done = project.pytest("specs", "--faults")
    assert done.returncode == 1
    assert "B-1 does not catch harmless: holds before, holds with it (90 tok/s)" in done.stdout
    assert "A-1       catches 1/1" in done.stdout
    assert "B-1       catches 1/3" in done.stdout
    assert "C-1       catches 0/1" in done.stdout
    assert project.pytest_alone("specs", "--faults", "-k", "a_1").returncode == 0
    project.pytest()
    assert {name: line["faults_caught"] for name, line in ledger(project).items()} == {"A-1": 1, "B-1": 1, "C-1": 0}
    project.write("test_speed", text.replace("return 80", "return 81"))
    project.pytest()
    assert ledger(project)["A-1"]["faults_caught"] is None, "the code has changed since the faults were planted"


def test_two_processes_make_one_ledger_and_one_count_of_faults(project):
    pytest.importorskip("xdist")
    both = ["-n", "2", "--dist", "loadfile"]
    project.write("test_speed", EVERY_VERDICT)
    project.write("test_speed_too", HEAD + spec("A-1", JUDGE) + spec("B-1", JUDGE, faults=["slow", "harmless"]))
    project.write(
        "faults", FAULTS + "import test_speed_too\nslow = lambda: patch.multiple('test_speed_too', speed=lambda: 40)"
    )
    alone = project.pytest("specs")
    one_by_one = {name: line | {"duration_s": 0} for name, line in ledger(project).items()}
    side_by_side = project.pytest("specs", *both)
    assert (side_by_side.returncode, alone.returncode) == (0, 0), side_by_side.stdout
    assert {name: line | {"duration_s": 0} for name, line in ledger(project).items()} == one_by_one
    planted = project.pytest("specs", "--faults", "-k", "a_1 or b_1", *both)
    assert planted.returncode == 1
    assert "A-1       catches 1/1" in planted.stdout
    assert "B-1       catches 1/2" in planted.stdout
    assert project.pytest_alone("specs", "--record", *both).returncode == 2, "timed beside one another"
    project.write("test_speed", HEAD + spec("A-1", "open('ran', 'w')") + spec("C-1", JUDGE, faults=[]))
    done = project.pytest_alone("specs", *both)
    assert (done.returncode, "claim C-1 has no fault" in done.stdout) == (2, True)


def test_no_evidence_is_served_from_a_cache_under_a_fault(project):
    project.write("faults", FAULTS)
    project.write(
        "conftest",
        "import pytest\n@pytest.fixture(scope='session')\n"
        "def evidence():\n    import test_speed\n    return test_speed.speed()\n",
    )
    text = HEAD + spec("A-1", 'judge(Measured.exact(evidence, "tok/s"), at_least(75))')
    project.write("test_speed", text.replace("(judge)", "(judge, evidence)"))
    done = project.pytest("specs", "--faults")
    assert done.returncode == 0, done.stdout


def test_a_mistake_stops_the_run_before_anything_executes(project):
    project.write("test_speed", HEAD + spec("A-1", "open('ran', 'w')") + spec("B-1", JUDGE, faults=[]))
    project.write("faults", FAULTS)
    done = project.pytest()
    assert done.returncode == 2
    assert "test_speed.py:12: claim B-1 has no fault" in done.stdout + done.stderr
    assert not (project.root / "ran").exists()


def test_a_claim_with_parameters_stops_the_run(project):
    text = HEAD + "import pytest\n@pytest.mark.parametrize('x', [1, 2])" + spec("A-1", JUDGE)
    project.write("test_speed", text.replace("(judge)", "(judge, x)"))
    project.write("faults", FAULTS)
    done = project.pytest()
    assert done.returncode == 2
    assert "claim A-1 runs twice: a spec takes no parameters" in done.stdout


def test_a_claim_that_the_text_does_not_show_stops_the_run(project):
    project.write("test_speed", HEAD + "named = claim\n" + spec("A-1", JUDGE).replace("@claim(", "@named("))
    project.write("faults", FAULTS)
    done = project.pytest()
    assert done.returncode == 2
    assert "claim A-1 cannot be read from the text" in done.stdout


def test_a_fault_that_fails_to_leave_is_an_error_and_no_crash(project):
    project.write("test_speed", HEAD + spec("A-1", JUDGE, faults=["sticky"]))
    project.write(
        "faults",
        FAULTS + "from contextlib import contextmanager\n@contextmanager\ndef sticky():\n"
        "    with slow():\n        yield\n    raise RuntimeError('stuck')\n",
    )
    done = project.pytest("specs", "--faults")
    assert done.returncode == 1
    assert "stuck" in done.stdout
    assert "INTERNALERROR" not in done.stdout


def test_a_fault_under_which_nothing_can_be_judged_is_not_caught(project):
    project.write("test_speed", HEAD + spec("A-1", JUDGE, faults=["away"]))
    away = "\ndef away():\n    def gone(): raise test_speed.UnavailableError('metal', 'gone')\n"
    project.write("faults", FAULTS + away + "    return patch.object(test_speed, 'speed', gone)\n")
    done = project.pytest("specs", "--faults")
    assert done.returncode == 1
    assert "A-1 does not catch away: holds before, not run with it" in done.stdout


def test_a_file_that_cannot_be_collected_is_no_interruption(project):
    project.write("test_speed", HEAD + spec("A-1", JUDGE))
    project.write("test_other", "import nothing_like_this\n")
    project.write("faults", FAULTS)
    assert project.pytest().returncode == 2


def test_a_damaged_cache_of_fault_counts_stops_nothing(project):
    project.write("test_speed", HEAD + spec("A-1", JUDGE))
    project.write("faults", FAULTS)
    (project.root / "build").mkdir()
    (project.root / "build/faults.json").write_text("{")
    assert project.pytest().returncode == 0


def test_hardware_selects_exactly_the_claims_about_the_machine(project):
    project.write("test_speed", EVERY_VERDICT)
    project.write("faults", FAULTS)
    done = project.pytest("specs", "-m", "hardware", "-v")
    assert "1 skipped, 5 deselected" in done.stdout
    assert "test_n_1 NOT RUN" in done.stdout
    assert project.pytest("specs", "-m", "hardware and not hardware").returncode == 2


def test_contents_lists_without_importing(project):
    project.write("test_speed", "import nothing_like_this\n" + EVERY_VERDICT)
    project.write("faults", FAULTS)
    done = project.pytest("specs", "--contents")
    assert done.returncode == 0
    assert "  H-1       measured   fixture Claim H-1 is true." in done.stdout
    assert project.pytest_alone("nowhere", "--contents").returncode == 2


RECORDED = '''
from gemma_bench.claims import Measured, at_least, claim
@claim(id="A-1", version=1, headline="It is fast", kind="recorded", source="a blog", expect="holds", faults=["slow"])
def test_a(judge, recorded):
    """It was fast."""
    from gemma_bench.core.records import Record
    judge(Measured.exact(recorded("speed", Record, version=2).samples[0], "tok/s"), at_least(75))
'''


def keep_speed(project, day, version, rate, scale="study"):
    from gemma_bench.core.records import Record, Subject, write_record

    record = Record.measured(
        Subject(), experiment="speed", experiment_version=version, config_json="{}", scale=scale, samples=(rate,)
    ).model_copy(update={"date_utc": f"2026-01-0{day}T00:00:00Z", "commit": "a" * 40, "commit_is_clean": True})
    return write_record(record, project.root / "results").relative_to(project.root).as_posix()


def test_a_recorded_claim_is_judged_from_the_newest_record_of_its_version(project):
    project.write("test_speed", RECORDED)
    project.write("faults", "def slow(): ...\n")
    project.pytest()
    assert ledger(project)["A-1"]["reason"] == "record: no clean record of experiment speed under results/records"
    old = keep_speed(project, 1, version=1, rate=70.0)
    assert project.pytest("specs", "--strict-claims").returncode == 3
    line = ledger(project)["A-1"]
    assert (line["verdict"], line["record"]) == ("stale", old)
    for day, rate, verdict in ((2, 80.0, "holds"), (3, 70.0, "refuted")):
        path = keep_speed(project, day, version=2, rate=rate)
        project.pytest()
        line = ledger(project)["A-1"]
        assert (line["verdict"], line["record"]) == (verdict, path)


def test_a_record_that_leaves_a_claim_open_has_nothing_that_a_fault_could_reverse(project):
    straddling = "Measured(value=75, low=70, high=80, unit='tok/s')"
    spec = RECORDED.replace("holds", "open").replace('Measured.exact(recorded("speed"', '(recorded("speed"')
    spec = spec.replace("judge((recorded", "record = (recorded").replace(', "tok/s"), at_least(75))', ")")
    project.write("test_speed", spec + f"    judge({straddling}, at_least(75))\n")
    project.write("faults", "from contextlib import nullcontext\n\n\ndef slow():\n    return nullcontext()\n")
    keep_speed(project, 2, version=2, rate=80.0)
    done = project.pytest("specs", "--faults")
    assert (done.returncode, "2 skipped" in done.stdout) == (0, True), done.stdout


def test_a_recorded_claim_chooses_the_scale_that_it_is_about(project):
    choose = "version=2, where=lambda record: record.scale == 'study'"
    project.write("test_speed", RECORDED.replace("version=2", choose))
    project.write("faults", "def slow(): ...\n")
    keep_speed(project, 3, version=2, rate=70.0, scale="fixture")
    project.pytest()
    assert "of the configuration that the claim is about" in ledger(project)["A-1"]["reason"]
    study = keep_speed(project, 1, version=2, rate=80.0)
    project.pytest()
    line = ledger(project)["A-1"]
    assert (line["verdict"], line["record"]) == ("holds", study)


def test_evidence_that_cannot_be_made_is_a_verdict_wherever_it_is_made(project):
    """A fixture may find its run invalid, which an open claim bears: the spec itself is then not run."""
    fixture = """
import pytest
@pytest.fixture
def evidence():
    from gemma_bench.core.errors import InvalidRunError
    raise InvalidRunError("throttled", "the machine was hot")
"""
    open_spec = RECORDED.replace("holds", "open").replace("recorded", "evidence").replace('"evidence"', '"measured"')
    project.write("test_speed", fixture + open_spec)
    project.write("faults", "def slow(): ...\n")
    assert project.pytest().returncode == 0
    line = ledger(project)["A-1"]
    assert (line["verdict"], line["reason"]) == ("invalid", "throttled: the machine was hot")


def test_a_record_of_another_configuration_does_not_make_a_claim_stale(project):
    project.write("test_speed", RECORDED.replace("version=2", "version=2, where=lambda record: False"))
    project.write("faults", "def slow(): ...\n")
    keep_speed(project, 1, version=1, rate=70.0)
    keep_speed(project, 2, version=2, rate=70.0)
    project.pytest()
    assert ledger(project)["A-1"]["verdict"] == "not run"


def test_record_keeps_ledger_and_evidence_under_results(project):
    project.write("test_speed", HEAD + spec("A-1", JUDGE) + spec("B-1", JUDGE))
    project.write("faults", FAULTS)
    assert project.pytest_alone("specs", "--record", "-k", "a_1").returncode == 2, "a part must not replace the whole"
    left_out = project.pytest("specs", "--record", "--deselect", "specs/test_speed.py::test_a_1")
    assert (left_out.returncode, (project.root / "results").exists()) == (2, False)
    assert project.pytest("specs", "--record").returncode == 0
    line = json.loads((project.root / "results/ledger.json").read_text())["claims"][0]
    record = json.loads((project.root / line["record"]).read_text())
    assert (record["claim_id"], record["value"], record["unit"], record["verdict"]) == ("A-1", 80, "tok/s", "holds")


def test_a_results_folder_that_cannot_be_written_is_one_clear_error(project):
    project.write("test_speed", HEAD + spec("A-1", JUDGE))
    project.write("faults", FAULTS)
    (project.root / "results").write_text("a file where the folder should be")
    done = project.pytest("specs", "--record")
    assert done.returncode == 2
    assert "error: cannot write" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_an_interrupted_run_exits_130_and_leaves_the_old_ledger(project, started):
    project.write("test_speed", HEAD + spec("A-1", JUDGE))
    project.write("faults", FAULTS)
    project.pytest()
    before = (project.root / "build/ledger.json").read_text()
    project.write("test_speed", HEAD + spec("A-1", "import time, pathlib; pathlib.Path('up').touch(); time.sleep(30)"))
    command = [sys.executable, "-m", "pytest", "specs"]
    running = started(command, cwd=project.root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while not (project.root / "up").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(running.pid, signal.SIGINT)
    assert running.wait(20) == 130
    assert (project.root / "build/ledger.json").read_text() == before


def test_other_tests_of_a_project_are_left_alone(project):
    project.write(
        "test_speed", "def test_plain():\n    assert True\ndef test_skip():\n    import pytest; pytest.skip('no')\n"
    )
    done = project.pytest()
    assert done.returncode == 0
    assert "ledger" not in done.stdout
    assert not (project.root / "build").exists()
    assert project.pytest("specs", "-k", "nothing").returncode == 5
