"""The table: every row in turn, held to the first one's tokens."""

import numpy as np
import pytest

from gemma_bench.core.errors import BadInputError, UnavailableError
from gemma_bench.core.records import read_record, write_record
from gemma_bench.experiments import speed_table
from gemma_bench.experiments.speed_table import FIXTURE, Config, Row, TableRecord, ratio, run
from gemma_bench.measure.known_text import known_tokens
from gemma_bench.measure.likelihood import perplexity
from gemma_bench.measure.throughput import run_trial
from gemma_bench.models.quantising import FITTED, quantise


@pytest.fixture
def small(tiny, monkeypatch):
    monkeypatch.setattr("gemma_bench.measure.bandwidth.buffer_bytes", lambda: 1 << 26)
    rows = tuple(Row(model=str(tiny.path), backend=backend) for backend in ("torch", "mlx"))
    return Config(rows=rows, new_tokens=6, rounds=3, text_tokens=64)


def test_a_record_per_row_and_the_same_tokens_in_all(small, tmp_path):
    records = list(run(small))
    assert [record.backend for record in records] == ["torch", "mlx"]
    assert [len(record.samples) for record in records] == [3, 3]
    assert all(record.is_complete for record in records)
    assert all(record.output_is_correct and record.same_tokens_ratio == 1 for record in records)
    assert records[0].over_first_row_ratio == 1
    assert records[1].reference.startswith("tiny-float32 in torch on cpu")
    paths = {write_record(record, tmp_path) for record in records}
    assert len(paths) == 2
    assert {read_record(path, TableRecord).row for path in paths} == {row.name for row in small.rows}


def test_a_row_that_writes_other_tokens_is_marked(small, monkeypatch):
    monkeypatch.setattr("gemma_bench.measure.throughput_mlx.wait", lambda _: np.array([7]))
    right, wrong = run(small)
    assert right.output_is_correct
    assert not wrong.output_is_correct


def test_ratios_are_of_pairs():
    assert ratio([2, 4, 6], [1, 2, 3]) == (2, 2, 2)


def test_the_fixture_is_every_backend_in_two_precisions():
    assert {(row.backend, row.dtype) for row in FIXTURE.rows} == {
        (backend, dtype) for backend in ("torch", "mlx") for dtype in ("float32", "bfloat16")
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rounds": 1}, "rounds must be at least 2, got 1"),
        ({"rows": ()}, "rows must be at least 1"),
        ({"text_tokens": 1}, "tokens of GPL-3 must be between 2 and"),
        ({"text_tokens": 513}, "text_tokens must be at most the model's context of 512, got 513"),
        ({"new_tokens": 500}, "are 516, the model's context is 512"),
    ],
)
def test_a_table_without_meaning_is_refused(small, change, message):
    with pytest.raises(BadInputError, match=message):
        run(small.model_copy(update=change))


def test_every_row_has_the_perplexity_of_its_weights(small, tiny):
    from gemma_bench.models.loading import load

    torch, mlx = run(small)
    backend = load(tiny, "torch", "cpu")
    assert torch.perplexity == perplexity(backend, known_tokens(backend.tokenizer, 64))
    assert mlx.perplexity == pytest.approx(torch.perplexity, rel=1e-3)
    assert (torch.text, torch.text_count_tokens) == ("GPL-3", 64)


def test_a_row_may_write_less_and_leave_the_text_unread(small):
    slow = small.rows[1].model_copy(update={"new_tokens": 3, "reads_text": False})
    _, record = run(small.model_copy(update={"rows": (small.rows[0], slow)}))
    assert (record.perplexity, record.text_count_tokens, record.new_count_tokens) == (None, 0, 3)


def test_ctrl_c_keeps_whole_rounds_as_incomplete_records(small, monkeypatch):
    """It comes within the second round, after one row of it: warm-up, round, warm-up, round, and then nothing."""
    turns = iter(range(5))

    def until_the_fifth(*case):
        if next(turns, None) is None:
            raise KeyboardInterrupt
        return run_trial(*case)

    monkeypatch.setattr(speed_table, "run_trial", until_the_fifth)
    monkeypatch.setattr("gemma_bench.measure.throughput.run_trial", until_the_fifth)
    records = run(small)
    kept = [next(records), next(records)]
    assert [(record.row, len(record.samples), record.is_complete) for record in kept] == [
        (row.name, 1, False) for row in small.rows
    ]
    assert all(record.perplexity is None and record.output_is_correct for record in kept)
    with pytest.raises(KeyboardInterrupt):
        next(records)
    with pytest.raises(KeyboardInterrupt):
        run(small)


def test_rounded_weights_are_held_to_themselves_and_cost_perplexity(small, tiny, tmp_path):
    coarse = quantise(tiny, FITTED, tmp_path / "coarse")
    rows = (*small.rows, *(Row(model=str(coarse.path), backend=backend) for backend in ("torch", "mlx")))
    records = list(run(small.model_copy(update={"rows": rows})))
    assert [record.reference.partition(" ")[0] for record in records] == [
        "itself,",
        "tiny-float32",
        "itself,",
        "tiny-4bit-g32",
    ]
    assert all(record.output_is_correct for record in records)
    assert records[2].perplexity != records[0].perplexity


def test_a_model_that_is_not_here_is_refused_before_any_is_loaded(small, monkeypatch, tmp_path):
    monkeypatch.setenv("GEMMA_BENCH_HOME", str(tmp_path))
    monkeypatch.setattr(speed_table, "load", lambda *_: pytest.fail("loaded"))
    absent = Row(model="270m-mixed", backend="torch")
    with pytest.raises(UnavailableError, match=r"then `gemma-bench convert 270m --scheme mixed`"):
        run(small.model_copy(update={"rows": (*small.rows, absent)}))
