"""The table: every row in turn, held to the first one's tokens."""

import numpy as np
import pytest

from gemma_bench.core.errors import BadInputError
from gemma_bench.core.records import read_record, write_record
from gemma_bench.experiments.speed_table import FIXTURE, Config, Row, TableRecord, ratio, run


@pytest.fixture
def small(tiny, monkeypatch):
    monkeypatch.setattr("gemma_bench.measure.bandwidth.buffer_bytes", lambda: 1 << 26)
    rows = tuple(Row(model=str(tiny.path), backend=backend) for backend in ("torch", "mlx"))
    return Config(rows=rows, new_tokens=6, rounds=3)


def test_a_record_per_row_and_the_same_tokens_in_all(small, tmp_path):
    records = run(small)
    assert [record.backend for record in records] == ["torch", "mlx"]
    assert [len(record.samples) for record in records] == [3, 3]
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
    [({"rounds": 1}, "rounds must be at least 2, got 1"), ({"rows": ()}, "rows must be at least 1")],
)
def test_a_table_without_meaning_is_refused(small, change, message):
    with pytest.raises(BadInputError, match=message):
        run(small.model_copy(update=change))
