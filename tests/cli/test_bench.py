"""The bench command: its record, its predictions, and what it refuses."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gemma_bench.core.records import read_record
from gemma_bench.experiments import study_table
from gemma_bench.experiments.speed import SpeedRecord


@pytest.fixture(autouse=True)
def _workplace(gemma_bench, models_home, tmp_path, monkeypatch):
    """Work in an empty folder with the tiny model at hand."""
    assert gemma_bench("download", "tiny").code == 0
    assert models_home.exists()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_a_bench_writes_a_record_that_reads_back(gemma_bench, backend):
    said = json.loads(gemma_bench("bench", "tiny", "--backend", backend, "-p", 8, "-g", 6, "-n", 3, "--json").out)
    record = read_record(next(Path("build/records/speed").glob("*.json")), SpeedRecord)
    assert record.model_dump(mode="json") == said
    assert record.is_complete
    assert len(record.samples) == 3
    assert [len(times) for times in record.token_times_s] == [5, 5, 5]
    assert record.decode_low_tokens_per_s <= record.decode_tokens_per_s <= record.decode_high_tokens_per_s
    assert record.mlx_lm_decode_tokens_per_s == pytest.approx(record.decode_tokens_per_s * 6 / 5)
    assert 0 < record.bandwidth_share_percent < 100
    assert record.output_is_correct is None, "nobody looked"


def test_a_short_run_says_that_it_is_no_evidence(gemma_bench):
    said = gemma_bench("bench", "tiny", "-p", 4, "-g", 2, "-n", 1)
    assert "too short" in said.err
    assert "tg2 @ d0" in said.out


def test_a_prediction_needs_no_machine(gemma_bench):
    arguments = ["bench", "12b", "--predict", "--machine", "m3ultra-80c-256gb", "--bits", 4, "--json"]
    found = json.loads(gemma_bench(*arguments).out)
    assert found["ceiling_tokens_per_s"] == pytest.approx(123.7, abs=0.1)
    assert found["expected_low_tokens_per_s"] < 75 < found["expected_high_tokens_per_s"]
    at_16 = json.loads(gemma_bench(*arguments[:-3], "--json").out)
    assert at_16["ceiling_tokens_per_s"] == pytest.approx(34.8, abs=0.1)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-g", "0"], "new_tokens must be at least 2"),
        (["-n", "0"], "trials must be at least 1, got 0"),
        (["-b", "0"], "batch_size must be at least 1, got 0"),
        (["-p", "500", "-g", "20"], "are 520, the model's context is 512"),
        (["--device", "cuda"], "device 'cuda' is not available here"),
        (["--dtype", "int1"], "unknown precision 'int1'"),
        (["--predict", "--machine", "m9"], "unknown machine 'm9', expected one of m3ultra-80c-256gb"),
        (["--predict"], "--predict needs --machine"),
        (["--machine", "m3ultra-80c-256gb"], "--machine names a machine to --predict for"),
    ],
)
def test_what_is_wrong_is_one_sentence(gemma_bench, arguments, sentence):
    done = gemma_bench("bench", "tiny", *arguments)
    assert done.code == 2
    assert sentence in " ".join(done.err.split())


def test_ctrl_c_keeps_the_repetitions_that_ended(tmp_path):
    command = [sys.executable, "-m", "gemma_bench", "bench", "tiny", "-p", "8", "-g", "8", "-n", "50", "--delay", "0.2"]
    running = subprocess.Popen(command, env=dict(os.environ), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    time.sleep(8)
    running.send_signal(signal.SIGINT)
    assert running.wait(30) == 130
    record = read_record(next((tmp_path / "build/records/speed").glob("*.json")), SpeedRecord)
    assert not record.is_complete
    assert 1 <= len(record.samples) < 50


def test_the_study_s_table_is_measured_only_on_its_machine(monkeypatch):
    from gemma_bench.core.errors import InvalidRunError, UnavailableError

    with pytest.raises(UnavailableError, match="this claim is about m3ultra-80c-256gb"):
        study_table.measure()
    here = study_table.this_machine().model_copy(update={"id": "m3ultra-80c-256gb"})
    monkeypatch.setattr(study_table, "this_machine", lambda: here)
    rows = {"mlx 4-bit": study_table.Config(model="tiny", prompt_tokens=8, new_tokens=40, trials=3)}
    monkeypatch.setattr(study_table, "ROWS", rows)
    monkeypatch.setattr("gemma_bench.experiments.speed.broken_rules", lambda *_: [])
    rates, _ = study_table.measure()
    assert len(rates["mlx 4-bit"]) == 3
    monkeypatch.setattr("gemma_bench.experiments.speed.broken_rules", lambda *_: ["throttled: 3 thermal events"])
    with pytest.raises(InvalidRunError, match="3 thermal events"):
        study_table.measure()
