"""What each command prints, and one clear error for each thing that can be wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tiny(gemma_bench, models_home):
    """Bring the tiny model into this test's own home."""
    assert gemma_bench("download", "tiny").code == 0
    return models_home / "tiny"


def test_help_answers_within_a_second():
    start = time.perf_counter()
    shown = subprocess.run([sys.executable, "-m", "gemma_bench", "--help"], capture_output=True, text=True, check=True)
    spent = time.perf_counter() - start
    assert all(
        verb in shown.stdout for verb in ("check", "models", "download", "convert", "generate", "claims", "ledger")
    )
    assert spent < 1 or os.getloadavg()[0] > os.cpu_count()


def test_models_are_listed_with_exact_counts(gemma_bench):
    table = gemma_bench("models").out
    assert "11,765,788,416" in table
    assert "6.62 GB" in table
    rows = {row["model"]: row for row in json.loads(gemma_bench("models", "--json", "--context", 32768).out)}
    assert list(rows) == ["270m", "1b", "4b", "12b", "27b"]
    assert rows["12b"]["kv_cache_bytes"] == 2_483_027_968
    assert rows["12b"]["bf16_bytes"] == 2 * rows["12b"]["parameters_count"]


def test_check_says_what_can_run_here_and_why_not(gemma_bench, models_home):
    found = json.loads(gemma_bench("check", "--json").out)
    by_what = {ability["what"]: ability for ability in found["abilities"]}
    assert by_what["torch on cpu"]["is_available"]
    assert not by_what["weights of 270m"]["is_available"]
    assert "gemma-bench download 270m" in by_what["weights of 270m"]["why"]
    assert str(models_home) in by_what["weights of 270m"]["why"]
    assert found["machine"]["id"] in gemma_bench("check").out


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_both_backends_continue_a_prompt_alike(gemma_bench, backend):
    said = json.loads(gemma_bench("generate", "tiny", "-p", "abc", "-m", 8, "--backend", backend, "--json").out)
    assert said["tokens_count"] <= 8
    reference = json.loads(gemma_bench("generate", "tiny", "-p", "abc", "-m", 8, "--json").out)
    assert said["text"] == reference["text"]


@pytest.mark.usefixtures("tiny")
def test_sampling_follows_its_seed_and_chat_changes_the_prompt(gemma_bench):
    def said(*more):
        return json.loads(gemma_bench("generate", "tiny", "-p", "abc", "-m", 12, "--json", *more).out)["text"]

    assert said("--temp", 1, "--seed", 1) == said("--temp", 1, "--seed", 1)
    assert len({said("--temp", 1, "--seed", seed) for seed in range(3)}) > 1
    assert said("--chat") != said()


@pytest.mark.usefixtures("tiny")
def test_a_model_is_converted_and_then_runs_in_mlx(gemma_bench):
    done = gemma_bench("convert", "tiny", "--bits", 4)
    assert (done.code, "tiny-4bit: 4bit" in done.out) == (0, True)
    assert json.loads(gemma_bench("generate", "tiny-4bit", "--backend", "mlx", "-p", "a", "-m", 3, "--json").out)[
        "text"
    ]


def test_claims_are_listed_and_shown(gemma_bench, monkeypatch):
    monkeypatch.chdir(ROOT)
    listed = gemma_bench("claims", "list").out
    assert "ARCH-8    measured   At fixture scale, a KV cache" in listed
    assert {row["id"] for row in json.loads(gemma_bench("claims", "list", "--json").out)} >= {"ARCH-1", "SPEED-23"}
    shown = gemma_bench("claims", "show", "ARCH-3").out
    assert "The sliding window is 4096 tokens." in shown
    assert "specs/test_01_architecture.py:" in shown


def test_one_claim_is_run_and_its_page_written(gemma_bench, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "specs").symlink_to(ROOT / "specs")
    done = gemma_bench("claims", "run", "SPEED-3")
    assert done.code == 0
    assert "page: build/ledger.html" in done.out
    assert "SPEED-3" in (tmp_path / "build/ledger.html").read_text(encoding="utf-8")
    assert gemma_bench("ledger", "--json").out.count('"SPEED-3"') == 1
    assert "| SPEED-3 |" in gemma_bench("ledger", "--markdown").out
    assert "refuted" in gemma_bench("ledger").out


WRONG = {
    "unknown model": (["generate", "300m", "-p", "a"], "unknown model '300m', expected one of tiny, 270m"),
    "unknown backend": (["generate", "tiny", "-p", "a", "--backend", "jax"], "unknown backend 'jax'"),
    "unknown precision": (["generate", "tiny", "-p", "a", "--dtype", "int3"], "unknown precision 'int3'"),
    "device not here": (["generate", "tiny", "-p", "a", "--device", "tpu"], "unknown device 'tpu'"),
    "empty prompt": (["generate", "tiny", "-p", ""], "the prompt is empty"),
    "no prompt": (["generate", "tiny"], "give one of --prompt and --prompt-file"),
    "long prompt": (["generate", "tiny", "-p", "x" * 600], "prompt has 601 tokens, the model's context is 512"),
    "no tokens": (["generate", "tiny", "-p", "a", "-m", "0"], "max tokens must be at least 1, got 0"),
    "bits": (["convert", "tiny", "--bits", "5000"], "bits must be one of 2, 3, 4, 5, 6, 8, 16, got 5000"),
    "scheme": (["convert", "tiny", "--scheme", "best"], "unknown scheme 'best', expected one of fitted, mixed"),
    "context": (["models", "--context", "0"], "--context must be at least 1 token, got 0"),
    "not downloaded": (["generate", "1b", "-p", "a"], "run `gemma-bench download 1b`"),
    "unknown claim": (["claims", "show", "ARCH-99", "--specs", str(ROOT / "specs")], "unknown claim 'ARCH-99'"),
    "no specs": (["claims", "list", "--specs", "nowhere"], "no specs at nowhere"),
    "no ledger": (["ledger", "--ledger", "nothing.json"], "ledger nothing.json cannot be read: No such file"),
}


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_gets_one_sentence_and_exit_code_2(gemma_bench, what):
    command, sentence = WRONG[what]
    done = gemma_bench(*command)
    assert done.code == 2
    assert sentence in " ".join(done.err.split())
    assert done.err.startswith("error: ")
    assert "Traceback" not in done.out + done.err


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is not JSON"),
        ('{"schema": 0}', "schema must be 1, got 0"),
        ('{"schema": 1, "machine": NaN}', "NaN is not a number"),
        ('{"schema": 1, "claims": [], "colour": 1}', "field machine: Field required"),
    ],
)
def test_a_ledger_that_cannot_be_read_names_file_and_field(gemma_bench, tmp_path, text, sentence):
    (tmp_path / "ledger.json").write_text(text)
    done = gemma_bench("ledger", "--ledger", tmp_path / "ledger.json")
    assert (done.code, "ledger.json" in done.err) == (2, True)
    assert sentence in " ".join(done.err.split())


@pytest.mark.usefixtures("tiny")
def test_files_that_are_not_what_they_should_be(gemma_bench, tmp_path):
    (tmp_path / "prompt.txt").write_bytes(b"caf\xe9")
    done = gemma_bench("generate", "tiny", "--prompt-file", tmp_path / "prompt.txt")
    assert (done.code, "is not UTF-8 text (byte 3)" in " ".join(done.err.split())) == (2, True)
    (tmp_path / "empty").mkdir()
    done = gemma_bench("generate", tmp_path / "empty", "-p", "a")
    assert (done.code, "config.json" in done.err) == (2, True)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_a_download_that_is_stopped_leaves_no_half_model(tmp_path, started, stop):
    """Stop it while it writes: the model is not there, and the next try brings it whole and tidies up."""
    environment = {**os.environ, "GEMMA_BENCH_HOME": str(tmp_path)}
    slow = (
        "import time, safetensors.torch as st; save = st.save_file\n"
        "def wait(*a, **k): save(*a, **k); print('writing', flush=True); time.sleep(60)\n"
        "st.save_file = wait\n"
        "import sys; sys.argv = ['gemma-bench', 'download', 'tiny']\n"
        "from gemma_bench.cli.app import main; main()\n"
    )
    running = started([sys.executable, "-c", slow], env=environment, stdout=subprocess.PIPE, text=True)
    assert running.stdout.readline() == "writing\n"
    running.send_signal(stop)
    code = running.wait(30)
    assert code == (130 if stop is signal.SIGINT else -signal.SIGKILL)
    assert not (tmp_path / "models" / "tiny").exists()
    subprocess.run([sys.executable, "-m", "gemma_bench", "download", "tiny"], env=environment, check=True)
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["tiny"]
