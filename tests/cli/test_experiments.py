"""`experiments` and `run`: a menu, records as they come, and one sentence for whatever is wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from pydantic import BaseModel

from gemma_bench.cli import experiments as cli
from gemma_bench.core.errors import InvalidRunError, UnavailableError
from gemma_bench.core.records import Record, Subject
from gemma_bench.experiments.index import Experiment


class Config(BaseModel):
    steps: int = 3


def record(step):
    provenance = {"experiment": "toy", "experiment_version": 1, "scale": "fixture", "samples": (float(step),)}
    return Record.measured(Subject(), config_json=json.dumps({"step": step}), **provenance)


def counted(config, *, scale, progress):
    assert scale == "fixture"
    for step in range(config.steps):
        progress("counting", step + 1, config.steps)
        yield record(step)


def stopped(config, *, scale, progress):  # noqa: ARG001
    yield record(0)
    raise KeyboardInterrupt


def long(config, *, scale, state, progress):  # noqa: ARG001
    done = state / "done"
    if not done.exists():
        done.touch()
        raise KeyboardInterrupt
    yield record(0)


def on_a_device(config, *, scale, device="cpu", progress):  # noqa: ARG001
    yield record(0).model_copy(update={"accelerator": device})


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """Put an experiment in the menu that only counts, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def install(run, **attributes):
        module = SimpleNamespace(VERSION=1, Config=Config, FIXTURE=Config(), run=run, **attributes)
        experiment = Experiment("toy", "how far do we count?", {"fixture": 0.5})
        monkeypatch.setattr(Experiment, "module", lambda _: module)
        monkeypatch.setattr(cli, "find", lambda _: experiment)
        return module

    return install


def records(folder):
    return sorted((folder / "records/toy").glob("*.json"))


def test_the_menu_names_question_scales_and_newest_record(gemma_bench, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    rows = {row["name"]: row for row in json.loads(gemma_bench("experiments", "--json").out)}
    assert set(rows["speed_table"]["minutes"]) >= {"fixture", "study"}
    assert Path(rows["speed_table"]["newest_record"]).exists()
    assert "which library and precision decodes fastest" in gemma_bench("experiments").out


@pytest.mark.parametrize(("answers", "count"), [(["speed_tabel", "speed_table", "fixture"], 1), ([""], 0)])
def test_a_menu_in_a_terminal_runs_what_is_chosen(gemma_bench, toy, monkeypatch, tmp_path, answers, count):
    asked = iter(answers)
    toy(stopped if count == 0 else on_a_device)
    monkeypatch.setattr(cli, "_is_asked", lambda: True)
    monkeypatch.setattr("builtins.input", lambda *_: next(asked))
    done = gemma_bench("experiments", "--results", tmp_path / "here")
    assert (done.code, len(records(tmp_path / "here"))) == (0, count)
    assert ("about 0.5 minutes" in done.out) is bool(count)
    assert list(asked) == []


def test_every_record_is_written_and_named(gemma_bench, toy, tmp_path):
    toy(counted)
    done = gemma_bench("run", "toy", "--results", tmp_path / "here")
    assert done.code == 0
    assert done.out.startswith("toy, fixture: about 0.5 minutes")
    assert done.out.count("record: ") == len(records(tmp_path / "here")) == 3
    assert "counting 3/3" in done.err


def test_an_interruption_keeps_what_is_finished(gemma_bench, toy, tmp_path):
    toy(stopped)
    done = gemma_bench("run", "toy")
    assert (done.code, len(records(tmp_path / "results"))) == (130, 1)
    assert "1 finished records are kept" in done.err


def test_a_long_run_goes_on_where_it_stopped_and_leaves_no_state(gemma_bench, toy, tmp_path):
    toy(long)
    assert gemma_bench("run", "toy").code == 130
    again = gemma_bench("run", "toy")
    assert (again.code, "go on with --resume" in " ".join(again.err.split())) == (2, True)
    assert gemma_bench("run", "toy", "--resume").code == 0
    assert len(records(tmp_path / "results")) == 1
    assert list((tmp_path / "build/state").iterdir()) == []


def test_a_resume_of_another_configuration_is_refused(gemma_bench, toy):
    module = toy(long)
    assert gemma_bench("run", "toy").code == 130
    module.FIXTURE = Config(steps=4)
    done = gemma_bench("run", "toy", "--resume")
    assert (done.code, "of another configuration (steps)" in " ".join(done.err.split())) == (2, True)


def test_a_resume_by_other_code_is_refused(gemma_bench, toy, monkeypatch):
    toy(long)
    monkeypatch.setattr(cli, "code_here", lambda: ("1111", True))
    assert gemma_bench("run", "toy").code == 130
    for other, named in ((("2222", True), "2222"), (("1111", False), "1111 and changes")):
        monkeypatch.setattr(cli, "code_here", lambda other=other: other)
        done = gemma_bench("run", "toy", "--resume")
        assert (done.code, f"of another code (1111, not {named})" in " ".join(done.err.split())) == (2, True)


def test_a_damaged_request_is_one_sentence(gemma_bench, toy, tmp_path):
    toy(long)
    assert gemma_bench("run", "toy").code == 130
    (tmp_path / "build/state/toy-fixture/request.json").write_text("{")
    done = gemma_bench("run", "toy", "--resume")
    assert (done.code, "request.json is not JSON: remove" in " ".join(done.err.split())) == (2, True)


def test_a_resume_on_another_device_is_refused_by_its_name(gemma_bench, toy, monkeypatch):
    def stops(config, *, scale, state, progress, device="cpu"):  # noqa: ARG001
        (state / "done").touch()
        raise KeyboardInterrupt
        yield

    toy(stops)
    monkeypatch.setattr("gemma_bench.models.torch_backend.checked_device", lambda device: device)
    assert gemma_bench("run", "toy").code == 130
    done = gemma_bench("run", "toy", "--resume", "--device", "cuda")
    assert (done.code, "of another device (cpu, not cuda)" in " ".join(done.err.split())) == (2, True)
    assert gemma_bench("run", "toy", "--resume", "--device", "cpu").code == 130


@pytest.mark.parametrize(
    "error", [UnavailableError("memory", "2 fit"), InvalidRunError("diverged", "a row")], ids=lambda error: str(error)
)
def test_what_there_is_nothing_to_resume_of_leaves_no_state(gemma_bench, toy, tmp_path, error):
    def refused(config, *, scale, state, progress):  # noqa: ARG001
        if isinstance(error, InvalidRunError):
            (state / "done").touch()
        raise error
        yield

    toy(refused)
    assert gemma_bench("run", "toy").code == 2
    assert list((tmp_path / "build/state").iterdir()) == []
    assert "interrupted run" not in gemma_bench("run", "toy").err


def test_a_device_is_checked_and_handed_on(gemma_bench, toy, tmp_path):
    toy(on_a_device)
    assert gemma_bench("run", "toy", "--device", "cpu").code == 0
    assert json.loads(records(tmp_path / "results")[0].read_text())["accelerator"] == "cpu"
    done = gemma_bench("run", "toy", "--device", "tpu")
    assert (done.code, "unknown device 'tpu'" in done.err) == (2, True)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--scale", "huge"], "unknown scale of toy 'huge', expected one of fixture"),
        (["--device", "cpu"], "toy chooses its devices itself: leave out --device"),
        (["--resume"], "toy keeps no state to resume from"),
        (["--results", "file"], "cannot write file/records: Not a directory"),
    ],
)
def test_what_is_wrong_is_said_before_anything_runs(gemma_bench, toy, tmp_path, options, sentence):
    toy(counted)
    (tmp_path / "file").touch()
    done = gemma_bench("run", "toy", *options)
    assert (done.code, done.out) == (2, "")
    assert sentence in " ".join(done.err.split())


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to"),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    ],
    ids=lambda error: str(error)[:20],
)
def test_no_memory_for_the_run_is_one_sentence_and_keeps_what_is_finished(gemma_bench, toy, tmp_path, error):
    def starved(config, *, scale, progress):  # noqa: ARG001
        yield record(0)
        raise error

    toy(starved)
    done = gemma_bench("run", "toy", "--results", tmp_path)
    assert done.code == 2
    assert "error: memory ran out: " in done.err
    assert "Traceback" not in done.err
    assert len(list((tmp_path / "records" / "toy").glob("*.json"))) == 1


def test_a_worker_that_was_ended_is_not_called_out_of_memory(gemma_bench, toy, tmp_path):
    def lost(config, *, scale, progress):  # noqa: ARG001
        raise BrokenProcessPool("A process in the process pool was terminated abruptly while the future was running.")
        yield

    toy(lost)
    done = gemma_bench("run", "toy", "--results", tmp_path)
    assert done.code == 2
    assert "error: a process of the run was ended from outside" in done.err
    assert "ran out" not in done.err


def test_another_mistake_is_not_taken_for_it(gemma_bench, toy, tmp_path):
    def wrong(config, *, scale, progress):  # noqa: ARG001
        raise RuntimeError("shapes do not match")
        yield

    toy(wrong)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        gemma_bench("run", "toy", "--results", tmp_path)


def test_an_unknown_experiment_lists_the_known_ones(gemma_bench):
    done = gemma_bench("run", "spead_table")
    assert (done.code, "speed_table" in done.err) == (2, True)


def test_ctrl_c_of_a_real_run_exits_130(started, tmp_path):
    environment = {**os.environ, "GEMMA_BENCH_HOME": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    gemma_bench = [sys.executable, "-m", "gemma_bench"]
    subprocess.run([*gemma_bench, "download", "tiny"], env=environment, check=True, capture_output=True)
    command = [*gemma_bench, "run", "speed_table", "--results", str(tmp_path / "results")]
    running = started(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert running.stdout.readline().startswith("speed_table, fixture")
    running.send_signal(signal.SIGINT)
    assert running.wait(240) == 130


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_ended_takes_its_processes_with_it(started, tmp_path, sent):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "gemma_bench", "run", "merge_frequency", "--scale", "study"]
    running = started(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    workers = _once(
        lambda: [c for c in psutil.Process(running.pid).children() if "spawn_main" in " ".join(c.cmdline())]
    )
    running.send_signal(sent)
    assert running.wait(60) == (130 if sent == signal.SIGTERM else -sent)
    assert _once(lambda: not psutil.wait_procs(workers, 1)[1])


def _once(asked):
    """Return the first answer that is true, within a minute."""
    for _ in range(600):
        if answer := asked():
            return answer
        time.sleep(0.1)
    raise AssertionError("a minute is over")
