"""Time against passes: the account of a run with known times, and the same passes in both libraries."""

import pytest

from gemma_bench.core.errors import BadInputError
from gemma_bench.core.intervals import Interval
from gemma_bench.core.records import read_record, write_record
from gemma_bench.experiments import set_block_time
from gemma_bench.experiments.set_block_time import FIXTURE, STUDY, TimeRecord, measure, run
from gemma_bench.measure.comparison import Comparison

SMALL = FIXTURE.model_copy(update={"block_tokens": 6, "fixed_tokens": 2, "new_tokens": 12, "rounds": 2})


@pytest.fixture
def steady(monkeypatch):
    """Make blocks exactly twice as fast, and a pass of two blocks twice as long as one of a block or of a token."""
    monkeypatch.setattr(
        set_block_time,
        "compare",
        lambda *_: Comparison(Interval(2, 1.9, 2.1), Interval(1, 1, 1), a=(8.0, 8.0), b=(4.0, 4.0)),
    )
    widths = {}
    monkeypatch.setattr(
        set_block_time, "_pass_s", lambda _, __, finished, block: widths.setdefault((finished, block), 1 + finished / 6)
    )
    return widths


def test_a_run_with_known_times(steady, tiny):
    record = measure(SMALL, tiny, "torch")
    assert (record.passes_count, record.passes_saving_ratio) == (6, 2)  # 12 tokens, two in each pass
    assert (record.one_by_one_ms_per_token, record.block_ms_per_token, record.speedup_ratio) == (8, 4, 2)
    assert (record.turned_percent, record.turned_low_percent) == (100, 95)
    assert set(steady) == {(0, 1), (0, 6), (6, 6)}
    assert record.predicted_speedup_ratio == pytest.approx(6 * 1 / (2 + 2 * 1))  # eq. 16: the first pass costs two


def test_each_library_has_a_record_of_the_same_passes(tiny, tmp_path):
    records = list(run(SMALL.model_copy(update={"model": str(tiny.path)})))
    assert [record.backend for record in records] == ["torch", "mlx"]
    for record in records:
        assert record.passes_saving_ratio == 2
        assert record.turned_percent == pytest.approx(100 * record.speedup_ratio / 2)
        assert record.speedup_low_ratio <= record.speedup_ratio <= record.speedup_high_ratio
        assert min(record.one_by_one_ms_per_token, record.block_ms_per_token, record.predicted_speedup_ratio) > 0
        assert len(record.samples) == 2 * SMALL.rounds
        assert read_record(write_record(record, tmp_path), TimeRecord) == record


@pytest.mark.usefixtures("steady")
def test_each_width_and_precision_has_a_record_of_its_own(tiny):
    also = {"model": str(tiny.path), "backends": ("torch",), "also": ((4, "float32"), (6, "bfloat16"))}
    records = list(run(SMALL.model_copy(update=also)))
    assert [(record.block_tokens, record.dtype) for record in records] == [
        (6, "float32"), (4, "float32"), (6, "bfloat16")
    ]  # fmt: skip
    alone = SMALL.model_copy(update={**also, "also": ()})
    assert next(run(alone)).config_json == records[0].config_json, "it supersedes the record of a run without others"


def test_the_study_covers_both_widths_in_both_precisions():
    covered = {(STUDY.block_tokens, STUDY.dtype), *STUDY.also}
    assert covered == {(width, dtype) for width in (8, 16) for dtype in ("float32", "bfloat16")}


def test_what_has_no_meaning_is_refused(tiny):
    with pytest.raises(BadInputError, match="block size must be at least 1"):
        measure(SMALL.model_copy(update={"block_tokens": 0}), tiny, "torch")
    with pytest.raises(BadInputError, match="count must be at least 1"):
        measure(SMALL.model_copy(update={"fixed_tokens": 0}), tiny, "torch")
