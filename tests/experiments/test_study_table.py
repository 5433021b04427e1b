"""The claims about the study's machine: every verdict that recorded samples can lead to, and a real tiny run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gemma_bench.core.errors import UnavailableError
from gemma_bench.experiments import study_table
from gemma_bench.measure.throughput import Workload

ROOT = Path(__file__).parents[2]
CLAIMS = [f"SPEED-{number}" for number in range(11, 18)]
OF_FLOAT16 = {"SPEED-14", "SPEED-16"}

AS_STATED = {"mlx 4-bit": 75.6, "mlx 16-bit": 28, "mps 16-bit": 14.95, "mlx 4-bit short": 75, "mlx 4-bit long": 75}
SLOWER = {"mlx 4-bit": 60, "mlx 16-bit": 20, "mps 16-bit": 12, "mlx 4-bit short": 75, "mlx 4-bit long": 60}
AT_THE_EDGE = {"mlx 4-bit": 75, "mlx 16-bit": 29.3, "mps 16-bit": 15.7, "mlx 4-bit short": 75, "mlx 4-bit long": 71.2}
STEADY = dict.fromkeys(AS_STATED, (1.0, 0.998, 1.002, 0.999, 1.001))
RESTLESS = {
    "mlx 4-bit": (0.9, 1.1, 0.95, 1.05, 1),
    "mlx 16-bit": (1.05, 0.95, 1.1, 0.9, 1),
    "mps 16-bit": (0.95, 1.05, 0.9, 1.1, 1),
    "mlx 4-bit short": (0.95, 1.05, 0.95, 1.1, 1),
    "mlx 4-bit long": (1.05, 0.95, 1.1, 0.9, 1),
}
COOLING_DOWN = STEADY | {"mps 16-bit": (1, 0.97, 0.95, 0.93, 0.9)}


def played(rates, spread=STEADY, peak_bytes=6_800_000_000, **rest):
    samples = {row: [rate * part for part in spread[row]] for row, rate in rates.items()}
    return {"rates": samples, "peak_bytes": peak_bytes, **rest}


def judged(tmp_path, samples, *options):
    """Judge the hardware claims on a fake machine; return verdicts, reasons and the exit code."""
    ledger = tmp_path / "ledger.json"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "fake_m3_ultra",
        "-p",
        "no:hypothesispytest",
        "-m",
        "hardware",
        *options,
    ]
    paths = os.pathsep.join([str(Path(__file__).parent), str(ROOT)])
    done = subprocess.run(
        [*command, "--rootdir", str(tmp_path), "--ledger", str(ledger), str(ROOT / "specs" / "test_02_speed.py")],
        env={**os.environ, "PYTHONPATH": paths, "FAKE_M3_ULTRA": json.dumps(samples)},
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert ledger.exists(), done.stdout + done.stderr
    lines = {line["id"]: line for line in json.loads(ledger.read_text())["claims"]}
    assert sorted(lines) == CLAIMS
    return {name: line["verdict"] for name, line in lines.items()}, lines, done.returncode


def test_what_the_study_states_holds(tmp_path):
    verdicts, lines, code = judged(tmp_path, played(AS_STATED), "--require-hardware", "--strict-claims")
    assert verdicts == dict.fromkeys(CLAIMS, "holds")
    assert lines["SPEED-16"]["reason"].startswith("4-bit over MPS: 5.0")
    assert code == 0


def test_a_slower_machine_refutes_every_claim(tmp_path):
    verdicts, lines, code = judged(tmp_path, played(SLOWER, peak_bytes=9_100_000_000))
    assert verdicts == dict.fromkeys(CLAIMS, "refuted")
    assert lines["SPEED-12"]["measured"]["value"] == 9.1
    assert code == 0, "an open question cannot be contradicted"


def test_samples_across_the_edge_settle_nothing(tmp_path):
    verdicts, lines, code = judged(tmp_path, played(AT_THE_EDGE, RESTLESS), "--strict-claims")
    sampled = [name for name in CLAIMS if name != "SPEED-12"]
    assert {verdicts[name] for name in sampled} == {"inconclusive"}
    assert all("straddles the threshold" in lines[name]["reason"] for name in sampled)
    assert code == 3


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        ({"throttle_events": 3}, "throttled: 3 thermal events"),
        ({"swapped_bytes": 4096}, "swapping: 4096 bytes were swapped out"),
    ],
)
def test_a_machine_that_was_slowed_down_is_no_evidence(tmp_path, after, reason):
    verdicts, lines, code = judged(tmp_path, played(AS_STATED, after=after), "--strict-claims")
    assert verdicts == dict.fromkeys(CLAIMS, "invalid")
    assert {line["reason"] for line in lines.values()} == {reason}
    assert code == 3


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"float16_is_nan": True}, "wrong output: mps 16-bit gives no finite logits"),
        ({"float16_gap_nats": 9.5}, "wrong output: mps 16-bit is 9.5 nats off the best tokens"),
    ],
)
def test_float16_that_writes_nonsense_is_compared_with_nothing(tmp_path, wrong, reason):
    verdicts, lines, _ = judged(tmp_path, played(AS_STATED, **wrong))
    assert {name for name, verdict in verdicts.items() if verdict == "invalid"} == OF_FLOAT16
    assert {lines[name]["reason"] for name in OF_FLOAT16} == {reason}
    assert {verdicts[name] for name in set(CLAIMS) - OF_FLOAT16} == {"holds"}


def test_one_row_that_drifts_takes_its_own_claims_with_it(tmp_path):
    verdicts, lines, _ = judged(tmp_path, played(AS_STATED, COOLING_DOWN))
    assert {name for name, verdict in verdicts.items() if verdict == "invalid"} == OF_FLOAT16
    assert lines["SPEED-14"]["reason"] == "drift: the rate moved by -10 % in one direction"


def test_a_peak_that_was_not_told_is_not_zero_bytes(tmp_path):
    verdicts, _, _ = judged(tmp_path, played(AS_STATED, peak_bytes=None))
    assert verdicts == dict.fromkeys(CLAIMS, "holds") | {"SPEED-12": "invalid"}


def test_the_table_is_measured_only_on_its_machine():
    with pytest.raises(UnavailableError, match="this claim is about m3ultra-80c-256gb"):
        study_table.measure()


def test_a_real_run_with_tiny_models_in_place_of_12b(tiny, monkeypatch):
    """The last row is held to MLX's tokens and writes them; the peak is that of one model alone."""
    here = study_table.this_machine().model_copy(update={"id": "m3ultra-80c-256gb"})
    monkeypatch.setattr(study_table, "this_machine", lambda: here)
    models = {
        "mlx 4-bit": (tiny, "mlx", "cpu", None),
        "mlx 16-bit": (tiny, "mlx", "cpu", "bfloat16"),
        "mps 16-bit": (tiny, "torch", "cpu", "bfloat16"),
    }
    monkeypatch.setattr(study_table, "MODELS", models)
    monkeypatch.setattr(study_table, "WORKLOADS", {name: (name, Workload(8, 6)) for name in models})
    monkeypatch.setattr(study_table, "broken_rules", lambda *_: [])
    rows = study_table.measure()
    assert {name: len(row.rates) for name, row in rows.items()} == dict.fromkeys(models, study_table.ROUNDS)
    assert {name: row.broken_rules for name, row in rows.items()} == dict.fromkeys(models, ())
    assert 1 < rows["mlx 4-bit"].peak_bytes / tiny.size.weight_bytes(32) < 2
    assert rows["mlx 16-bit"].peak_bytes is None
