"""Clocks with known answers, rules with synthetic samples, and real tiny runs as controls."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemma_bench.core.errors import BadInputError, InvalidRunError
from gemma_bench.measure import bandwidth, throughput
from gemma_bench.measure.throughput import Trial, Workload, percentile, run_trial, trials
from gemma_bench.measure.validity import State, broken_rules, drift_percent, require_valid
from gemma_bench.models.catalog import TINY
from gemma_bench.models.generation import generate

QUIET = State(swapped_bytes=0, throttle_events=0, busy_cores=0.1)


@given(st.integers(2, 50), st.floats(1e-4, 1), st.integers(1, 4))
def test_a_clock_that_ticks_evenly_gives_its_rate(count, second, batch):
    stamps = tuple(round(1e9 * (1 + second * index)) for index in range(count))
    trial = Trial(Workload(10, count, batch), 0, stamps, (7,) * count)
    assert trial.decode_tokens_per_s == pytest.approx(batch / second, rel=1e-3)
    assert trial.mlx_lm_tokens_per_s / trial.decode_tokens_per_s == pytest.approx(count / (count - 1))
    assert trial.first_token_s == pytest.approx(1)
    assert trial.prefill_tokens_per_s == pytest.approx(10 * batch)


def test_a_trial_writes_the_tokens_that_generate_writes(backend):
    workload = Workload(prompt_tokens=12, new_tokens=10)
    trial = run_trial(backend, workload)
    prompt = workload.tokens(backend.size, 12)[0].tolist()
    assert list(trial.tokens) == list(generate(backend, prompt, 10))
    assert list(np.diff(trial.token_ns) > 0) == [True] * 9


def test_depth_and_prompt_are_one_text(backend):
    whole = run_trial(backend, Workload(prompt_tokens=20, new_tokens=5))
    split = run_trial(backend, Workload(prompt_tokens=8, new_tokens=5, depth_tokens=12))
    assert split.tokens == whole.tokens


def test_every_sequence_of_a_batch_counts(backend):
    found = run_trial(backend, Workload(prompt_tokens=4, new_tokens=3, batch_size=3))
    assert found.decode_tokens_per_s == pytest.approx(3 * 2 / sum(found.token_s))


def test_the_meter_costs_less_than_one_percent_of_a_token_of_the_270m(backend, monkeypatch):
    """Without a model, clock and bookkeeping must stay under 0.6 ms a token: 1 % of 60 ms."""
    ready = backend.numpy(backend.logits([[7]], last_only=True))
    monkeypatch.setattr(type(backend), "logits", lambda *_, **__: ready)
    monkeypatch.setattr(type(backend), "numpy", lambda _, array: array)
    found = run_trial(backend, Workload(prompt_tokens=4, new_tokens=200))
    assert np.median(found.token_s) < 0.6e-3


@pytest.mark.parametrize(
    ("workload", "count", "message"),
    [
        (Workload(new_tokens=0), 1, "new_tokens must be at least 2"),
        (Workload(prompt_tokens=0), 1, "prompt_tokens must be at least 1, got 0"),
        (Workload(batch_size=0), 1, "batch_size must be at least 1, got 0"),
        (Workload(depth_tokens=-1), 1, "depth_tokens must be at least 0, got -1"),
        (Workload(8, 8, depth_tokens=600), 1, "are 616, the model's context is 512"),
        (Workload(8, 8), 0, "trials must be at least 1, got 0"),
    ],
)
def test_a_workload_without_meaning_is_refused(backend, workload, count, message):
    with pytest.raises(BadInputError, match=message):
        list(trials(backend, workload, count))


def test_a_percentile_needs_its_samples():
    assert percentile(range(43), 90) is None
    assert percentile(range(45), 90) == pytest.approx(39.6)
    assert percentile(range(400), 99) is None


@pytest.mark.parametrize(
    ("after", "duration", "rates", "rule"),
    [
        (State(4096, 0, 0.1), 9, [1, 2, 1, 2, 1], "swapping"),
        (State(0, 3, 0.1), 9, [1, 2, 1, 2, 1], "throttled"),
        (QUIET, 0.1, [1, 2, 1, 2, 1], "too short"),
        (QUIET, 9, [100, 95, 90, 85, 80], "drift"),
    ],
)
def test_each_rule_is_named_when_it_is_broken(after, duration, rates, rule):
    assert [found.partition(":")[0] for found in broken_rules(QUIET, after, duration, rates)] == [rule]
    with pytest.raises(InvalidRunError) as caught:
        require_valid(broken_rules(QUIET, after, duration, rates))
    assert caught.value.rule == rule


def test_a_quiet_steady_run_breaks_no_rule():
    assert broken_rules(QUIET, QUIET, 9, [100, 101, 99, 100, 101]) == []
    busy = State(0, 0, 99.0)
    assert broken_rules(busy, QUIET, 9, [100, 101, 99, 100, 101])[0].startswith("other load")


def test_drift_is_a_direction_not_a_spread():
    assert drift_percent([100, 60, 110, 70, 100]) is None
    assert drift_percent([100, 90, 80, 70, 60]) == pytest.approx(-40)
    assert drift_percent([100, 99.9, 99.8, 99.7, 99.6]) is None


def test_memory_that_was_never_written_reads_too_fast(monkeypatch):
    import torch

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
