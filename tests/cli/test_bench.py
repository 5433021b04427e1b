"""The bench command: its record, its predictions, and what it refuses."""

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from gemma_bench.core.records import read_record
from gemma_bench.experiments.speed import SpeedRecord
from gemma_bench.measure.turn import turn_file
from gemma_bench.models.catalog import TINY

SHORT = ("-p", "4", "-g", "4", "-n", "1")


@pytest.fixture(autouse=True)
def _workplace(gemma_bench, models_home, tmp_path, monkeypatch):
    """Work in an empty folder with the tiny model at hand."""
    assert gemma_bench("download", "tiny").code == 0
    assert models_home.exists()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr("gemma_bench.measure.bandwidth.buffer_bytes", lambda: 1 << 26)


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
    assert record.output_is_correct
    assert record.load_live_bytes == pytest.approx(record.weights_bytes, rel=0.01)
    assert record.peak_memory_bytes == pytest.approx(record.predicted_peak_bytes, rel=0.05)
    assert record.decode_footprint_bytes < record.memory_limit_bytes


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
        (["-g", "0"], "--generation-tokens must be at least 2, got 0"),
        (["-n", "0"], "--num-trials must be at least 1, got 0"),
        (["-b", "0"], "--batch-size must be at least 1, got 0"),
        (["-p", "500", "-g", "20"], "are 520, the model's context is 512"),
        (["--device", "cuda"], "device 'cuda' is not available here"),
        (["--delay", "-1"], "--delay must be at least 0 seconds, got -1"),
        (["--delay", "nan"], "--delay must be at least 0 seconds, got nan"),
        (["--backend", "jax"], "unknown backend 'jax', expected one of torch, mlx"),
        (["--backend", "mlx", "--device", "metal"], "device 'metal' is not available here"),
        (["--predict", "--machine", "m3ultra-80c-256gb", "--bits", "7"], "bits must be one of 2, 3, 4, 5, 6, 8, 16"),
        (["--bits", "0"], "bits must be one of 2, 3, 4, 5, 6, 8, 16, got 0"),
        (["--predict", "--machine", "m3ultra-80c-256gb", "--bits", "0"], "bits must be one of 2, 3, 4"),
        (["--predict", "--machine", "m3ultra-80c-256gb", "-g", "0"], "--generation-tokens must be at least 2, got 0"),
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


def test_ctrl_c_keeps_the_repetitions_that_ended(gemma_bench, monkeypatch):
    pauses = iter([None, None, None])

    def sleep(_):
        if next(pauses, "stop") == "stop":
            raise KeyboardInterrupt

    monkeypatch.setattr("gemma_bench.experiments.speed.time.sleep", sleep)
    said = gemma_bench("bench", "tiny", *SHORT, "-n", 50)
    assert said.code == 130
    assert "interrupted after 3 repetitions" in said.err
    record = read_record(next(Path("build/records/speed").glob("*.json")), SpeedRecord)
    assert not record.is_complete
    assert len(record.samples) == 3


def test_ctrl_c_before_the_first_repetition_leaves_nothing(gemma_bench, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("gemma_bench.experiments.speed.bandwidth_under", stop)
    assert gemma_bench("bench", "tiny", *SHORT).code == 130
    assert not Path("build").exists()
    assert not turn_file().exists()


def test_a_signal_ends_a_real_run_with_130(started):
    command = [sys.executable, "-m", "gemma_bench", "bench", "tiny", *SHORT, "-n", "1", "--delay", "600"]
    running = started(command, env=dict(os.environ), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while not turn_file().exists():
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    assert running.wait(60) == 130


def test_the_second_bench_says_that_the_first_still_runs(gemma_bench):
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    turn_file().write_text(str(other.pid))
    said = gemma_bench("bench", "tiny", *SHORT)
    assert f"other bench: process {other.pid} is measuring too" in " ".join(said.err.split())
    other.communicate()
    assert "other bench" not in gemma_bench("bench", "tiny", *SHORT).err, "a dead process has lost its turn"


def test_no_interval_is_told_from_three_repetitions(gemma_bench):
    assert "no interval from 3 of at least 5 repetitions" in " ".join(
        gemma_bench("bench", "tiny", *SHORT, "-n", 3).out.split()
    )
    told = " ".join(gemma_bench("bench", "tiny", *SHORT, "-n", 5).out.split())
    assert "no interval" not in told


def test_pauses_are_in_no_figure(gemma_bench, monkeypatch):
    """By this clock a repetition takes 0.1 s: three are too short to be evidence, however long the pauses between."""
    now = 0.0

    def tick(seconds=0.1):
        nonlocal now
        now += seconds
        return now

    monkeypatch.setattr("gemma_bench.experiments.speed.time", SimpleNamespace(sleep=tick, monotonic=tick))
    said = gemma_bench("bench", "tiny", "-p", 4, "-g", 2, "-n", 3, "--delay", "9")
    assert "too short: 0.30 s" in said.err


def test_a_predicted_conversion_names_its_bits_apart(gemma_bench):
    said = gemma_bench("bench", "12b-4bit", "--predict", "--machine", "m3ultra-80c-256gb")
    assert said.code == 2
    assert "12b-4bit is a conversion: name its model, 12b, and give its bits apart" in said.err


def test_a_wrong_output_is_said_beside_its_speed(gemma_bench, monkeypatch):
    monkeypatch.setattr("gemma_bench.measure.throughput.wait", lambda *_: np.array([7]))
    said = gemma_bench("bench", "tiny", *SHORT)
    assert "WRONG" in said.out
    assert "wrong output: a token" in said.err


def test_a_full_disk_is_one_sentence_and_the_figures_were_shown(gemma_bench, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    monkeypatch.setattr("gemma_bench.experiments.speed.turn", lambda: nullcontext())
    monkeypatch.setattr("gemma_bench.measure.memory.reset_footprint_peak", lambda: None)
    said = gemma_bench("bench", "tiny", *SHORT)
    assert said.code == 2
    assert "no room on disk for build/records/speed" in said.err
    assert "tg4 @ d0" in said.out


def test_a_batch_at_depth_reads_back(gemma_bench):
    said = json.loads(gemma_bench("bench", "tiny", *SHORT, "-b", 2, "--depth", 20, "--json").out)
    assert (said["batch_size_count"], said["depth_count_tokens"]) == (2, 20)
    assert said["step_bytes"] == said["weights_bytes"] + 2 * TINY.kv_cache_bytes(24, 4)
    assert said["output_is_correct"]
