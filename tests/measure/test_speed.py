"""Clocks with known answers, rules with synthetic samples, and real tiny runs as controls."""

import time

import mlx.core as mx
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gemma_bench.core.errors import BadInputError
from gemma_bench.measure import bandwidth, throughput
from gemma_bench.measure.correctness import check_output
from gemma_bench.measure.throughput import Trial, Workload, percentile, read_before, run_trial
from gemma_bench.measure.throughput_mlx import mlx_steps
from gemma_bench.models.catalog import TINY
from gemma_bench.models.generation import generate
from gemma_bench.models.loading import load


@given(st.integers(2, 50), st.floats(1e-4, 1), st.integers(1, 4))
def test_a_clock_that_ticks_evenly_gives_its_rate(count, second, batch):
    stamps = tuple(round(1e9 * (1 + second * index)) for index in range(count))
    trial = Trial(Workload(10, count, batch), 0, stamps, ((7,) * count,) * batch)
    assert trial.decode_tokens_per_s == pytest.approx(batch / second, rel=1e-3)
    assert trial.mlx_lm_tokens_per_s / trial.decode_tokens_per_s == pytest.approx(count / (count - 1))
    assert trial.first_token_s == pytest.approx(1)
    assert trial.prefill_tokens_per_s == pytest.approx(10 * batch)


def test_a_trial_writes_the_tokens_that_generate_writes(backend):
    workload = Workload(prompt_tokens=12, new_tokens=10)
    trial = run_trial(backend, workload)
    prompt = workload.tokens(backend.size, 12)[0].tolist()
    assert trial.rows == (tuple(generate(backend, prompt, 10)),)
    assert list(np.diff(trial.token_ns) > 0) == [True] * 9


def test_cases_take_turns_forwards_and_backwards(monkeypatch):
    said = []
    monkeypatch.setattr(throughput, "run_trial", lambda backend, _: said.append(backend))
    list(throughput.in_turn({name: (name, None) for name in "abc"}, 3))
    assert "".join(said) == "abccbaabc"


def test_depth_and_prompt_are_one_text(backend):
    whole = run_trial(backend, Workload(prompt_tokens=20, new_tokens=5))
    split = run_trial(backend, Workload(prompt_tokens=8, new_tokens=5, depth_tokens=12))
    assert split.rows == whole.rows


def test_every_sequence_of_a_batch_counts(backend):
    found = run_trial(backend, Workload(prompt_tokens=4, new_tokens=3, batch_size=3))
    assert found.decode_tokens_per_s == pytest.approx(3 * 2 / sum(found.token_s))


ONE_PERCENT_OF_A_TOKEN_S = 0.01 / 62
"""Of the 270m's fastest row in the speed table, 4 bits in torch."""


def test_the_meter_costs_less_than_one_percent_of_a_token_of_the_270m(tiny, monkeypatch):
    """Without a model only clock and bookkeeping are left, beside the choice that any loop makes."""
    backend = load(tiny, "torch", "cpu")
    ready = torch.zeros(1, 1, TINY.vocab_size, dtype=torch.bfloat16)
    monkeypatch.setattr(type(backend), "logits", lambda *_, **__: ready)
    metered = run_trial(backend, Workload(prompt_tokens=4, new_tokens=400))
    assert typical(metered.token_s) - typical(bare(400, lambda: int(ready[0, -1].argmax()))) < ONE_PERCENT_OF_A_TOKEN_S


def test_the_meter_of_mlx_costs_less_than_one_percent_too(tiny, monkeypatch):
    backend = load(tiny, "mlx", "cpu")
    ready = mx.zeros((1, 1, TINY.vocab_size))
    monkeypatch.setattr(type(backend.model), "__call__", lambda *_, **__: ready)
    metered = run_trial(backend, Workload(prompt_tokens=1, new_tokens=400))
    assert typical(metered.token_s) - typical(bare(400, lambda: int(chosen(ready)))) < ONE_PERCENT_OF_A_TOKEN_S


def chosen(logits):
    last = logits[:, -1]
    return mx.argmax(last - mx.logsumexp(last, axis=-1, keepdims=True), axis=-1)


def bare(count, choose):
    for _ in range(count):
        start = time.perf_counter()
        choose()
        yield time.perf_counter() - start


def typical(seconds):
    """The fastest tenth: other work on the machine only ever adds time."""
    return np.quantile(list(seconds), 0.1)


def test_a_clock_that_does_not_wait_gives_itself_away(backend, monkeypatch):
    """The fault that a lazy library invites: choices that nobody waited for are not the model's."""
    workload = Workload(prompt_tokens=12, new_tokens=24)
    assert check_output(backend, workload, run_trial(backend, workload).rows).is_correct
    module = "throughput" if backend.name == "torch" else "throughput_mlx"
    monkeypatch.setattr(f"gemma_bench.measure.{module}.wait", lambda *_: np.array([7]))
    careless = run_trial(backend, workload)
    assert not check_output(backend, workload, careless.rows).is_correct


def test_a_long_prompt_is_read_in_pieces(backend, monkeypatch):
    whole = run_trial(backend, Workload(prompt_tokens=30, new_tokens=4))
    for module in ("models.generation", "measure.throughput_mlx"):
        monkeypatch.setattr(f"gemma_bench.{module}.PREFILL_TOKENS", 7)
    assert run_trial(backend, Workload(prompt_tokens=30, new_tokens=4)).rows == whole.rows


def test_our_loop_writes_mlx_lm_s_tokens(tiny):
    """Both ways, as on a GPU too; `benchmarks/test_meters.py` and SPEED-9 compare the rates."""
    from mlx_lm.generate import generate_step

    backend, workload = load(tiny, "mlx", "cpu"), Workload(prompt_tokens=16, new_tokens=24)
    prompt = mx.array(workload.tokens(backend.size, 16)[0])
    theirs = [int(token) for token, _ in generate_step(prompt, backend.model, max_tokens=24)]
    assert run_trial(backend, workload).rows == (tuple(theirs),)
    rows, cache = read_before(backend, workload)
    assert [int(token) for (token,) in mlx_steps(backend, rows, cache, 24)] == theirs


@pytest.mark.parametrize(
    ("workload", "message"),
    [
        (Workload(new_tokens=0), "new_tokens must be at least 2"),
        (Workload(prompt_tokens=0), "prompt_tokens must be at least 1, got 0"),
        (Workload(batch_size=0), "batch_size must be at least 1, got 0"),
        (Workload(depth_tokens=-1), "depth_tokens must be at least 0, got -1"),
        (Workload(8, 8, depth_tokens=600), "are 616, the model's context is 512"),
    ],
)
def test_a_workload_without_meaning_is_refused(workload, message):
    with pytest.raises(BadInputError, match=message):
        workload.check(TINY)


def test_a_percentile_needs_its_samples():
    assert percentile(range(43), 90) is None
    assert percentile(range(45), 90) == pytest.approx(39.6)
    assert percentile(range(400), 99) is None


def test_memory_that_was_never_written_reads_too_fast(monkeypatch):
    honest = bandwidth.read_bandwidth_bytes_per_s(size_bytes=1 << 29)
    monkeypatch.setattr(bandwidth, "touched", lambda size, device: torch.empty(size // 4, device=device))
    assert bandwidth.read_bandwidth_bytes_per_s(size_bytes=1 << 29) > 1.5 * honest
    assert 1e9 < honest < 1e12
    assert bandwidth.buffer_bytes() >= 1 << 30


def test_no_tiny_model_beats_the_bus(backend):
    found = run_trial(backend, Workload(prompt_tokens=8, new_tokens=20))
    assert found.decode_tokens_per_s * backend.weight_bytes() < bandwidth.read_bandwidth_bytes_per_s(size_bytes=1 << 28)
    assert throughput.clock() < throughput.clock()
    assert TINY.parameter_count * 4 == backend.weight_bytes()


def test_a_buffer_that_reuses_freed_memory_is_still_seen_to_be_held():
    for _ in range(3):  # the C library keeps blocks below 32 MB once it has seen some freed
        blocks = [torch.ones(5 << 18) for _ in range(200)]
        last = torch.ones(1000)
    del blocks
    assert bandwidth.resident_share() > 0.9
    assert last.sum() == len(last)
