"""`train` and `fuse`: from a folder of rows to one that both libraries load, stopped and resumed without a trace."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from gemma_bench.models.loading import load

STEPS = ["--iters", 8, "--learning-rate", "1e-2", "--batch-size", 2, "--steps-per-report", 1, "--save-every", 2]
METHODS = {
    "full": ["full"],
    "lora": ["lora", "--rank", 2, "--dropout", 0.1],
    "relora": ["relora", "--rank", 2, "--reset-interval", 3, "--rewarm-steps", 1],
    "rank1": ["rank1", "--rule", "error_feedback", "--merge-freq", 1],
    "sbd": ["sbd", "--mask-token", 3],
    "sbd of adapters": ["sbd", "--mask-token", 3, "--rank", 2],
}


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [{"prompt": f"add one to {n}", "completion": f"{n + 1}"} for n in range(9)]
    rows += [
        {"text": "plain text"},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
    ]
    for split in ("train", "valid", "test"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def start(tiny, data, tmp_path):
    """The options that every run here has."""

    def options(method, output="run", *more):
        return ["train", *METHODS[method], "--model", tiny.path, "--data", data, "-o", tmp_path / output, *STEPS, *more]

    return options


def logits(folder, library, tokens=(2, 70, 80, 90, 100)):
    backend = load(str(folder), library, "cpu", "float32")
    return backend.numpy(backend.logits([list(tokens)]))


@pytest.mark.parametrize("method", METHODS)
def test_a_run_trains_and_its_model_is_the_same_in_both_libraries(gemma_bench, start, tiny, tmp_path, method):
    done = gemma_bench(*start(method, "run", "--fuse"))
    assert done.code == 0, done.err
    assert "perplexity" in done.out
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 9))
    (record,) = (tmp_path / "run" / "records" / f"train_{METHODS[method][0]}").iterdir()
    found = json.loads(record.read_text())
    assert (found["steps_count"], found["is_complete"], found["cut_rows_count"]) == (8, True, 0)
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    ours, theirs = (logits(tmp_path / "run" / "model", library) for library in ("torch", "mlx"))
    assert np.abs(ours - theirs).max() < 1e-3
    assert np.abs(ours - logits(tiny.path, "torch")).max() > 1e-3


RANKS = {"lora": [2, 2, 2], "relora": [2, 4, 6], "rank1": [3, 6, 8]}


@pytest.mark.parametrize("method", RANKS)
def test_the_rank_of_the_change_is_seen_growing(gemma_bench, start, tmp_path, method):
    """In the log, in TensorBoard, in the record, in the terminal and as a picture."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    done = gemma_bench(*start(method, "run", "--rank-every", 3))
    assert done.code == 0, done.err
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    ranks = {line["step"]: line["rank"] for line in lines if "rank" in line}
    assert list(ranks) == [3, 6, 8]
    assert list(ranks.values()) == pytest.approx(RANKS[method], abs=0.5)  # successive top pairs overlap a little
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [event.value for event in events.Scalars("rank")] == pytest.approx(list(ranks.values()))
    assert len(events.Scalars("effective_rank/down_proj")) == 3
    (record,) = (tmp_path / "run" / "records" / f"train_{method}").iterdir()
    found = json.loads(record.read_text())
    assert (found["rank_steps"], found["rank"]) == ([3, 6, 8], list(ranks.values()))
    assert f"rank of the change: numeric {found['rank'][-1]:.1f}, effective" in done.out
    assert (tmp_path / "run" / "rank.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("method", "more"), [("lora", ["--rank-every", 0]), ("full", [])])
def test_ranks_are_not_read_where_nobody_asked(gemma_bench, start, tmp_path, method, more):
    done = gemma_bench(*start(method, "run", *more))
    assert (done.code, "rank of the change" in done.out) == (0, False)
    assert not (tmp_path / "run" / "rank").exists()


def test_fusing_an_adapter_changes_no_logit(gemma_bench, start, tiny, tmp_path):
    from gemma_bench.training.adapters import load as load_adapter

    assert gemma_bench(*start("lora")).code == 0
    adapter = tmp_path / "run" / "adapter"
    done = gemma_bench("fuse", "--model", tiny.path, "--adapter-path", adapter, "-o", tmp_path / "fused")
    assert done.code == 0, done.err
    adapted = load_adapter(load(tiny, "torch", "cpu", "float32").model, adapter).eval()
    with torch.no_grad():
        expected = adapted(input_ids=torch.tensor([[2, 70, 80, 90, 100]])).logits.numpy()
    for library, allowed in (("torch", 1e-4), ("mlx", 1e-3)):
        assert np.abs(logits(tmp_path / "fused", library) - expected).max() < allowed
    again = gemma_bench("fuse", "--model", tiny.path, "--adapter-path", adapter, "-o", tmp_path / "fused")
    assert (again.code, "exists already" in again.err) == (2, True)


def test_an_adapter_is_fused_into_its_own_model_only(gemma_bench, start, tiny, tmp_path):
    from gemma_bench.models.catalog import TINY
    from gemma_bench.models.tiny import random_folder

    other, wider = random_folder(tmp_path / "other", seed=1).path, TINY.model_copy(update={"intermediate_size": 96})
    assert gemma_bench(*start("lora", "run", "--iters", 1, "--save-every", 0)).code == 0
    adapter = tmp_path / "run" / "adapter"
    done = gemma_bench("fuse", "--model", other, "--adapter-path", adapter, "-o", tmp_path / "fused")
    said = " ".join(done.err.split())
    assert (done.code, "was trained beside tiny-float32, weights" in said) == (2, True)
    assert not (tmp_path / "fused").exists()
    (adapter / "base_model.json").unlink()  # as in an adapter from elsewhere
    assert gemma_bench("fuse", "--model", other, "--adapter-path", adapter, "-o", tmp_path / "fused").code == 0
    unlike = random_folder(tmp_path / "unlike", wider).path
    done = gemma_bench("fuse", "--model", unlike, "--adapter-path", adapter, "-o", tmp_path / "none")
    assert (done.code, "does not fit the model" in " ".join(done.err.split())) == (2, True)
    (adapter / "adapter_model.safetensors").write_bytes(b"no tensors")
    done = gemma_bench("fuse", "--model", tiny.path, "--adapter-path", adapter, "-o", tmp_path / "none")
    assert (done.code, "cannot be read" in " ".join(done.err.split())) == (2, True)


def test_an_adapter_that_learnt_nothing_fuses_to_the_model_itself(gemma_bench, tiny, tmp_path):
    from gemma_bench.training import adapters

    adapters.save(adapters.attach(load(tiny, "torch", "cpu", "float32").model, 2), tmp_path / "fresh")
    done = gemma_bench("fuse", "--model", tiny.path, "--adapter-path", tmp_path / "fresh", "-o", tmp_path / "fused")
    assert done.code == 0, done.err
    assert np.array_equal(logits(tmp_path / "fused", "torch"), logits(tiny.path, "torch"))


@pytest.mark.parametrize("method", ["relora", "rank1", "sbd", "sbd of adapters"])
def test_a_killed_run_resumes_without_a_trace(gemma_bench, start, started, tmp_path, method):
    """Kill -9 once there is a checkpoint; log and weights end as those of a run that nobody touched."""
    assert gemma_bench(*start(method, "whole", "--rank-every", 3)).code == 0
    slow = (
        "import time, sys, gemma_bench.training.log as log; tell = log.Bar.on_step_end\n"
        "def wait(*a, **k): tell(*a, **k); time.sleep(0.3)\n"
        "log.Bar.on_step_end = wait\n"
        f"sys.argv = {['gemma-bench', *map(str, start(method, 'killed', '--rank-every', 3))]!r}\n"
        "from gemma_bench.cli.app import main; main()\n"
    )
    running = started([sys.executable, "-c", slow], env=dict(os.environ))
    waited = time.monotonic() + 240
    while not (tmp_path / "killed" / "checkpoint-4").exists() and time.monotonic() < waited:
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    assert running.wait(30) == -signal.SIGKILL
    assert not (tmp_path / "killed" / "model").exists()
    assert gemma_bench(*start(method, "killed", "--rank-every", 3, "--resume")).code == 0
    one, other = (tmp_path / name for name in ("whole", "killed"))
    assert (one / "log.jsonl").read_text() == (other / "log.jsonl").read_text()
    ranks = [{path.name: path.read_bytes() for path in (run / "rank").glob("*")} for run in (one, other)]
    assert ranks[0] == ranks[1]
    assert sorted(ranks[0]) == [f"{step:06}.safetensors" for step in (3, 6, 8)]
    weights = [path / "model" / "model.safetensors" for path in (one, other)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_terminated_run_stops_after_the_step_in_hand_and_says_how_to_go_on(start, started, tmp_path):
    command = [sys.executable, "-m", "gemma_bench", *map(str, start("lora")), "--iters", "100000"]
    running = started(command, env=dict(os.environ), stderr=subprocess.PIPE, text=True)
    waited = time.monotonic() + 240
    while not (tmp_path / "run" / "checkpoint-4").exists() and time.monotonic() < waited:
        time.sleep(0.02)
    running.send_signal(signal.SIGTERM)
    _, said = running.communicate(timeout=240)
    assert running.returncode == 130, said
    assert "go on with --resume" in said


def test_yaml_gives_options_and_the_command_line_overrides_them(gemma_bench, start, tmp_path):
    (tmp_path / "c.yaml").write_text("iters: 3\nrank: 4\nlearning-rate: 0.5\n")
    assert gemma_bench(*start("lora", "run", "--config", tmp_path / "c.yaml")).code == 0
    (record,) = (tmp_path / "run" / "records" / "train_lora").iterdir()
    chosen = json.loads(json.loads(record.read_text())["config_json"])
    assert (chosen["iters"], chosen["rank"], chosen["learning_rate"]) == (8, 2, 0.01)
    (tmp_path / "c.yaml").write_text("colour: red\n")
    done = gemma_bench(*start("lora", "other", "--config", tmp_path / "c.yaml"))
    assert (done.code, "unknown option 'colour' for lora" in done.err) == (2, True)


def test_long_rows_are_counted_or_refused(gemma_bench, start):
    done = gemma_bench(*start("lora", "cut", "--max-seq-length", 20))
    for split in ("train", "valid", "test"):
        assert f"{split}: 9 of 11 rows were too long and cut" in " ".join(done.err.split())
    done = gemma_bench(*start("lora", "refused", "--max-seq-length", 20, "--refuse-long"))
    assert done.code == 2
    assert "line 1: " in done.err
    assert "tokens are too many, at most 20" in " ".join(done.err.split())


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--rank", 0], "rank must be between 1 and 32, got 0"),
        (["--rank", 33], "rank must be between 1 and 32, got 33"),
        (["--targets", "qkv"], "unknown target 'qkv', expected one of down_proj"),
        (["--targets", "lm_head"], "lm_head cannot have an adapter"),
        (["--alpha", 0], "--alpha: input should be greater than 0, got 0"),
        (["--seed", 5_000_000_000], "--seed: input should be less than 4294967296, got 5000000000"),
        (["--learning-rate", "1e38"], f"--learning-rate: input should be less than or equal to {10**30}, got 1e+38"),
        (["-o", "/proc/x"], "cannot write /proc/x"),
        (["-o", "/dev/null"], "cannot write /dev/null"),
        (["--iters", 0], "--iters: input should be greater than or equal to 1, got 0"),
        (["--dtype", "float16"], "--dtype: input should be 'float32' or 'bfloat16', got 'float16'"),
        (["--max-seq-length", 1000], "max seq length must be at most the model's context, 512, got 1000"),
        (["--data", "nowhere"], "data folder nowhere has no train.jsonl"),
        (["--resume"], "holds no checkpoint"),
    ],
)
def test_what_is_wrong_gets_one_sentence(gemma_bench, start, more, sentence):
    done = gemma_bench(*start("lora", "run", *more))
    assert done.code == 2
    assert sentence in " ".join(done.err.split())


def test_a_merge_must_leave_steps_at_the_full_rate(gemma_bench, start):
    done = gemma_bench(*start("relora", "run", "--reset-interval", 5, "--rewarm-steps", 5))
    assert done.code == 2
    assert "rewarm steps must be below the reset interval, 5, got 5" in " ".join(done.err.split())


def test_targets_may_have_spaces_between_them(gemma_bench, start, tmp_path):
    assert gemma_bench(*start("lora", "run", "--targets", "q_proj, v_proj")).code == 0
    config = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text())
    assert sorted(config["target_modules"]) == ["q_proj", "v_proj"]


def test_help_shows_defaults_and_choices(gemma_bench):
    for method, shown in (
        ("lora", ("[default: 0.0001]", "[default: 10]", "[default: 100]", "[default: 8]", "[default: build/train]")),
        ("relora", ("One of reset, prune, keep. [default: reset]", "One of cpu, mps, cuda. [default: cpu]")),
        ("rank1", ("One of random_a, random_b, top_pair,", "error_feedback_bf16, sign. [default: top_pair]")),
    ):
        said = " ".join(gemma_bench("train", method, "--help").out.replace("│", " ").split())
        assert [words for words in shown if words not in said] == []


def test_a_run_without_options_reports_and_saves(gemma_bench, tiny, data, tmp_path):
    run = tmp_path / "run"
    options = ["--model", tiny.path, "--data", data, "-o", run, "--iters", 101, "--batch-size", 1, "--rank-every", 0]
    assert gemma_bench("train", "lora", *options).code == 0
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(10, 101, 10))
    assert {path.name for path in run.glob("checkpoint-*")} == {"checkpoint-100", "checkpoint-101"}


def test_results_of_two_runs_do_not_mix(gemma_bench, start, tmp_path):
    assert gemma_bench(*start("lora", "run", "--save-every", 0, "--fuse", "--rank-every", 4)).code == 0
    done = gemma_bench(*start("full", "run", "--save-every", 0))
    said = " ".join(done.err.split())
    assert (done.code, "holds adapter, model, rank of a run already: give another output" in said) == (2, True)
    assert not list((tmp_path / "run" / "records").glob("train_full"))


@pytest.mark.parametrize("valid", [True, False])
def test_a_run_that_diverged_leaves_no_model(gemma_bench, start, data, tmp_path, valid):
    """Whichever sees it first: the loss, the gradient, the rank's reading, or the look at what would be written."""
    if not valid:
        for split in ("valid", "test"):
            (data / f"{split}.jsonl").unlink()
    more = ["--learning-rate", "1e30", "--clip-norm", 0, "--iters", 2, "--save-every", 1]
    for method, extra in (("full", []), ("full", ["--rank-every", 1]), ("lora", []), ("rank1", [])):
        output = f"{method}{len(extra)}"
        done = gemma_bench(*start(method, output, *more, *extra))
        assert done.code == 2, (method, done.out, done.err)
        assert re.search(r"in step|after step|no number", done.err)
        assert "good checkpoint" in " ".join(done.err.split())
        assert not {"model", "adapter"} & {path.name for path in (tmp_path / output).iterdir()}


def test_a_warm_start_is_followed_by_readings_without_asking(gemma_bench, start, tmp_path):
    more = ["--warm-start-steps", 3, "--reset-interval", 20, "--rewarm-steps", 2, "--iters", 26, "--save-every", 0]
    done = gemma_bench(*start("relora", "run", *more))
    assert "rank of the change since step 3: numeric 4.0" in done.out
    (record,) = (tmp_path / "run" / "records" / "train_relora").iterdir()
    found = json.loads(record.read_text())
    assert (found["rank_steps"], found["rank_since_step"]) == ([25, 26], 3)


def test_merges_that_nobody_reads_are_not_kept_and_cannot_be_read_later(gemma_bench, start, tmp_path):
    assert gemma_bench(*start("relora", "run", "--rank-every", 0)).code == 0
    state = torch.load(tmp_path / "run" / "checkpoint-8" / "state.pt", weights_only=True)
    assert state["method"][0]["change"] == {}
    done = gemma_bench(*start("relora", "run", "--rank-every", 1, "--resume"))
    assert (done.code, "ranks_are_read was False there and is True now" in " ".join(done.err.split())) == (2, True)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[1]\n", b'{"loss": 1}\n'])
def test_a_damaged_log_is_named(gemma_bench, start, tmp_path, content):
    assert gemma_bench(*start("lora")).code == 0
    (tmp_path / "run" / "log.jsonl").write_bytes(content)
    done = gemma_bench(*start("lora", "run", "--resume"))
    assert (done.code, "log" in done.err) == (2, True)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "train.jsonl has no rows"),
        ('{"text": "a"}\n{"text": \n', "train.jsonl, line 2 is not JSON"),
        ('{"text": "a"}\n{"colour": 1}\n', "line 2 must have messages, prompt and completion, or text, got colour"),
        ("[1]\n", "line 1 must have messages, prompt and completion, or text, got list"),
    ],
)
def test_broken_data_names_file_and_line(gemma_bench, start, data, text, sentence):
    (data / "train.jsonl").write_text(text)
    done = gemma_bench(*start("lora"))
    assert done.code == 2
    assert sentence in " ".join(done.err.split())


def test_another_run_is_not_resumed_nor_overwritten(gemma_bench, start):
    assert gemma_bench(*start("lora")).code == 0
    done = gemma_bench(*start("lora"))
    assert (done.code, "holds a run already" in done.err) == (2, True)
    done = gemma_bench(*start("lora", "run", "--resume", "--learning-rate", "0.5"))
    assert (done.code, "learning_rate was 0.01 there and is 0.5 now" in " ".join(done.err.split())) == (2, True)


@pytest.mark.parametrize("method", METHODS)
def test_what_does_not_fit_is_refused_before_weights_are_loaded(gemma_bench, start, tmp_path, monkeypatch, method):
    monkeypatch.setattr("gemma_bench.training.free_memory.available_bytes", lambda: 2**16)
    monkeypatch.setattr("gemma_bench.training.run.load", lambda *_: pytest.fail("weights were loaded"))
    done = gemma_bench(*start(method))
    assert done.code == 2
    assert re.search(r"needs 0\.0 GiB, 0\.0 GiB available; (fits with --|no smaller rank)", " ".join(done.err.split()))
    assert not (tmp_path / "run").exists()


def test_ctrl_c_before_the_first_step_ends_at_once(gemma_bench, start, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "gemma_bench.measure.training_fit.require_memory", lambda *_: signal.raise_signal(signal.SIGINT)
    )
    monkeypatch.setattr("gemma_bench.training.run.load", lambda *_: pytest.fail("weights were loaded"))
    assert gemma_bench(*start("lora")).code == 130
    assert not (tmp_path / "run").exists()


def test_the_named_knobs_are_options_that_make_it_fit(gemma_bench, start, monkeypatch):
    from gemma_bench.measure.training_fit import require_memory
    from gemma_bench.measure.training_memory import forecast

    seen = []
    monkeypatch.setattr("gemma_bench.measure.training_fit.require_memory", lambda plan, *_: seen.append(plan))
    assert gemma_bench(*start("lora", "first", "--iters", 1)).code == 0
    room = forecast(seen[0]).peak_bytes - 1
    monkeypatch.setattr("gemma_bench.measure.training_fit.require_memory", require_memory)
    monkeypatch.setattr("gemma_bench.training.free_memory.available_bytes", lambda: room)
    done = gemma_bench(*start("lora", "second", "--iters", 1))
    assert done.code == 2
    knobs = done.err.partition("fits with ")[2].split()
    assert knobs[0] == "--checkpointing"
    assert gemma_bench(*start("lora", "third", "--iters", 1, *knobs)).code == 0
    assert gemma_bench(*start("lora", "fourth", "--iters", 1, "--no-memory-check")).code == 0


@pytest.mark.parametrize("method", ["sbd", "sbd of adapters"])
def test_a_model_trained_in_blocks_decodes_in_blocks(gemma_bench, start, tmp_path, method):
    assert gemma_bench(*start(method)).code == 0
    options = ["--decoder", "sbd", "--block-size", 4, "-p", "add one", "--max-tokens", 8]
    done = gemma_bench("generate", tmp_path / "run" / "model", *options)
    assert done.code == 0, done.err


def test_adapters_of_blocks_train_the_masks_row_and_say_so_when_fused(gemma_bench, start, tiny, tmp_path):
    assert gemma_bench(*start("sbd of adapters")).code == 0
    adapter, fused = tmp_path / "run" / "adapter", tmp_path / "fused"
    done = gemma_bench("fuse", "--model", tiny.path, "--adapter-path", adapter, "-o", fused)
    assert done.code == 0, done.err
    rows = {
        path: load(path, "torch", "cpu", "float32").model.get_input_embeddings().weight.detach()
        for path in (tiny.path, tmp_path / "run" / "model", fused)
    }
    moved = (rows[fused] - rows[tiny.path]).abs().amax(dim=1)
    assert moved[3] > 1e-3
    assert moved.count_nonzero() == 1, "the row of the mask token alone"
    assert torch.equal(rows[fused], rows[tmp_path / "run" / "model"])
    options = ["--decoder", "sbd", "--block-size", 4, "-p", "add one", "--max-tokens", 8]
    written = [gemma_bench("generate", path, *options) for path in (fused, tmp_path / "run" / "model")]
    assert [one.code for one in written] == [0, 0], written[0].err
    assert written[0].out == written[1].out


def test_a_fused_model_computes_as_with_its_adapters_and_row(gemma_bench, start, tiny, tmp_path):
    from gemma_bench.training.adapters import load as load_adapter

    assert gemma_bench(*start("sbd of adapters")).code == 0
    adapted = load_adapter(load(tiny, "torch", "cpu", "float32").model, tmp_path / "run" / "adapter").eval()
    with torch.no_grad():
        expected = adapted(input_ids=torch.tensor([[2, 70, 3, 3, 100]])).logits.numpy()
    for library, allowed in (("torch", 1e-4), ("mlx", 1e-3)):
        found = logits(tmp_path / "run" / "model", library, (2, 70, 3, 3, 100))
        assert np.abs(found - expected).max() < allowed


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--mask-token", "0"], "mask token must be one that no text needs, got 0, which is <pad>"),
        (["--mask-token", "1"], "mask token must be one that no text needs, got 1, which is <eos>"),
        (["--mask-token", "2"], "mask token must be one that no text needs, got 2, which is <bos>"),
        (["--mask-token", "5"], "mask token must be one that no text needs, got 5, which is <end_of_turn>"),
        (["--mask-token", "4"], "token 4 stands for hidden ones, but a row of the data contains it"),
        (["--mask-token", "262"], "mask token must be between 0 and 261, got 262"),
        (["--smallest-block", "17"], "smallest block must be at most the largest, 16, got 17"),
    ],
)
def test_blocks_and_masks_without_meaning_are_refused(gemma_bench, start, more, sentence):
    done = gemma_bench(*start("sbd", "run", *more))
    assert done.code == 2
    assert sentence in done.err
