"""The families' experiment: aligned columns, equal tokens, and accounts that known answers fix."""

import pytest

from gemma_bench.core.errors import BadInputError
from gemma_bench.core.intervals import proportion_interval, ratio_interval
from gemma_bench.core.records import read_record, write_record
from gemma_bench.experiments.set_block_arms import EQUAL_COMPUTE, EQUAL_TOKENS, compute_ratio
from gemma_bench.experiments.set_block_speedup import FIXTURE, SetBlockRecord, run
from gemma_bench.experiments.set_block_writing import Setting
from gemma_bench.measure.block_quality import Written, quality

SMALL = {
    "start_steps": 2,
    "tuning_steps": 2,
    "prompts": 4,
    "pool": 40,
    "batch_size": 4,
    "mixtures": (("digits", "sums"),),
}


def test_every_model_and_setting_has_its_row(tmp_path):
    (record,) = run(FIXTURE.model_copy(update={**SMALL, "controls": (EQUAL_TOKENS, EQUAL_COMPUTE)}))
    assert record.tuning_count_tokens == record.equal_tokens_count_tokens
    assert record.equal_compute_count_tokens == 2 * record.tuning_count_tokens
    assert record.loss_model == ("start", "set block", "equal tokens", "equal compute") * 2
    assert record.row_family == ("digits",) * 6 + ("sums",) * 6
    assert record.row_decoder[:6] == ("next token",) * 4 + ("entropy",) * 2
    assert record.row_model[4:6] == ("start", "set block")
    lengths = {len(value) for name, value in record.model_dump().items() if name.startswith("row_")}
    assert lengths == {12}
    assert read_record(write_record(record, tmp_path), SetBlockRecord) == record


def test_a_setting_without_meaning_is_refused_before_training():
    with pytest.raises(BadInputError, match="block size must be at least 1"):
        next(run(FIXTURE.model_copy(update={"settings": (Setting(block_tokens=0),)})))


def test_lost_are_right_answers_that_blocks_get_wrong():
    before = Written([True, True, False, False], [4, 4, 4, 4], [4, 4, 4, 4], [1.0, 1.0, 1.0, 1.0])
    now = Written([True, False, True, False], [4, 4, 4, 4], [1, 2, 1, 4], [2.0, 2.0, 2.0, 2.0])
    found = quality(now, before)
    assert found["right_ratio"] == 0.5
    assert found["lost_ratio"] == 0.25
    assert found["tokens_per_pass"] == 2
    assert found["nats"] == 0.5
    assert quality(before, before)["lost_ratio"] == 0


def test_intervals_of_shares_and_ratios():
    none = proportion_interval(0, 200)
    assert none.value == none.low == 0
    assert none.high == pytest.approx(1.96**2 / (200 + 1.96**2), rel=1e-3)
    assert proportion_interval(200, 200).high == 1
    assert ratio_interval([4, 4, 4], [2, 2, 2]) == (2, 2, 2)
    spread = ratio_interval([1, 2, 3, 4, 5, 6], [2, 2, 2, 2, 2, 2])
    assert spread.low < 1.75 == spread.value < spread.high


def test_the_block_objective_costs_between_one_and_a_half_and_two_of_the_plain_one():
    assert 1.5 < compute_ratio(FIXTURE.size) < 2


def test_patterns_are_those_of_the_setting_that_counts():
    (record,) = run(FIXTURE.model_copy(update=SMALL))
    assert [record.row_family[row] for row in record.pattern_row] == ["digits"] * 3 + ["sums"] * 3
    for row, words, passes in zip(record.pattern_row, record.pattern_words, record.pattern_fixed_in_pass, strict=True):
        assert (record.row_model[row], record.row_decoder[row]) == ("set block", "entropy")
        assert len(words) == len(passes)
        assert not words or min(passes) >= 1


def test_a_killed_run_goes_on(tmp_path, monkeypatch):
    config = FIXTURE.model_copy(update={**SMALL, "mixtures": (("digits",), ("sums",))})
    whole = list(run(config))
    records = run(config, state=tmp_path)
    first = next(records)  # recorded, and the second one not begun
    next(records)
    records.close()  # killed before the second was written down
    monkeypatch.setattr("gemma_bench.training.short_run._go_on", lambda *_: pytest.fail("trained again"))
    monkeypatch.setattr(
        "gemma_bench.experiments.set_block_answers.written_in_blocks", lambda *_: pytest.fail("written again")
    )
    (second,) = run(config, state=tmp_path)
    measured = {"date_utc", "load_average_1min", "set_block_s", "equal_tokens_s"}
    for found, wanted in zip((first, second), whole, strict=True):
        assert found.model_dump(exclude=measured) == wanted.model_dump(exclude=measured)
