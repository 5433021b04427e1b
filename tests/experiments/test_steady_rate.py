"""The steady rate: on record what the instrument found, and marked where a rule was broken."""

import pytest

from gemma_bench.core.errors import BadInputError
from gemma_bench.core.records import read_record, write_record
from gemma_bench.experiments import steady_rate
from gemma_bench.experiments.steady_rate import FIXTURE, STUDY, SteadyRecord, run
from gemma_bench.measure.comparison import compared


@pytest.fixture
def config(tiny):
    return FIXTURE.model_copy(update={"model": str(tiny.path), "long_tokens": 40})


def test_a_record_holds_both_generations_in_their_order(config, tmp_path):
    (record,) = run(config)
    assert len(record.samples) == len(record.short_token_s) == 4
    assert record.ratio.low <= record.ratio.value <= record.ratio.high
    assert read_record(write_record(record, tmp_path), SteadyRecord) == record


def test_the_ratio_is_that_of_the_long_generation_over_the_short_one(config, monkeypatch):
    seen = []

    def compare(*arguments):
        seen.append(arguments[1:5])
        return compared([(3.0, 2.0, 2.0, 3.0)] * 2)

    monkeypatch.setattr(steady_rate, "compare_at_equal_depth", compare)
    (record,) = run(config)
    assert seen == [(18, 40, 2, 8)]
    assert record.samples == (3.0,) * 4
    assert record.ratio == pytest.approx((1.5, 1.5, 1.5))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"short_tokens": 1}, "short_tokens must be at least 2, got 1"),
        ({"long_tokens": 18}, "long_tokens must be more than 18, got 18"),
        ({"long_tokens": 505}, "are 513, the model's context is 512"),
        ({"rounds": 1}, "rounds must be at least 2, got 1"),
    ],
)
def test_what_cannot_be_compared_is_refused(config, change, message):
    with pytest.raises(BadInputError, match=message):
        run(config.model_copy(update=change))


def test_the_study_is_of_the_claims_model_and_lengths():
    assert (STUDY.model, STUDY.dtype, STUDY.short_tokens, STUDY.long_tokens) == ("270m", "bfloat16", 18, 512)
