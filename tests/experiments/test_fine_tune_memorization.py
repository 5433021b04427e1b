"""Fine-tuning by heart: what the record must say whatever the numbers are, on tiny models."""

import pytest

from gemma_bench.core.errors import BadInputError
from gemma_bench.experiments.fine_tune_memorization import FIXTURE, FULL, STUDY, Config, run

_SMALL = {"base_sequences": 1_280, "reference_sequences": 2_048, "held_out_sequences": 64, "visits": 40}


def small(**fields):
    return Config(arms=(FIXTURE.arms[0].model_copy(update=_SMALL | fields),))


@pytest.fixture(scope="module")
def record():
    return next(run(small(sequences_counts=(4, 256), seeds=(0, 1))))


def test_columns_run_over_sizes_within_seeds(record):
    assert record.seeds == (0, 0, 1, 1)
    assert record.sequences_counts == (4, 256, 4, 256)
    assert record.column("data_bits", 256) == [record.data_bits[1], record.data_bits[3]]
    assert record.trained_parameters_count == 11_024


def test_nothing_is_memorised_beyond_the_data(record):
    pairs = list(zip(record.memorised_bits, record.data_bits, strict=True))
    assert all(0 < bits < data for bits, data in pairs)
    assert record.capacity_bits == max(record.memorised_bits)


def test_few_samples_are_learnt_by_heart_at_the_cost_of_the_others(record):
    assert record.memorised_bits_per_sequence[0] > record.memorised_bits_per_sequence[1]
    assert record.generalised_bits_per_sequence[0] < 0


def test_held_out_samples_count_for_much_less(record):
    for control, ours in zip(record.control_bits_per_sequence, record.memorised_bits_per_sequence, strict=True):
        assert control < 0.25 * ours


def test_the_course_ends_where_the_columns_are(record):
    assert [course[-1] for course in record.readings_visits] == [40] * 4
    ends = [course[-1] for course in record.readings_memorised_bits_per_sequence]
    assert ends == pytest.approx(record.memorised_bits_per_sequence)


def test_the_held_out_loss_is_that_of_the_bits_saved(record):
    per_token = (record.base_held_out_bits_per_token[0] - record.held_out_bits_per_token[0]) * record.length_tokens
    assert per_token == pytest.approx(record.generalised_bits_per_sequence[0], rel=1e-6)


def test_an_adapter_beside_a_loaded_model(tiny):
    arm = {"model": str(tiny.path), "rank": 2, "targets": ("q_proj", "v_proj"), "rate": 0.01}
    sizes = {"base_sequences": 0, "reference_sequences": 64, "sequences_counts": (4,)}
    (found,) = run(small(**arm, **sizes))
    assert found.trained_parameters_count == 6 * 2 * ((64 + 64) + (64 + 32))
    assert found.memorised_bits[0] > 0
    assert found.weights_sha256 == tiny.sha256


def test_presets_go_beyond_what_they_can_hold():
    tiny, adapter = STUDY.arms
    assert max(tiny.sequences_counts) > 10 * sorted(tiny.sequences_counts)[1]
    assert max(adapter.sequences_counts) >= 5 * sorted(adapter.sequences_counts)[1]
    assert {arm.model for arm in FULL.arms} == {"270m"} == {adapter.model}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sequences_counts": (0,)}, r"data sizes must be at least 1 sequence each, got \[0\]"),
        ({"sequences_counts": ()}, r"data sizes must be at least 1 sequence each, got \[\]"),
        ({"visits": 0}, "visits must be at least 1, got 0"),
        ({"seeds": ()}, "seeds must be at least 1, got 0"),
        ({"length_tokens": 1 << 30}, "a window must be between 2 and"),
        ({"reference_sequences": 10_000_000}, "training rows of 32 tokens, 10,001,344 were asked for"),
    ],
)
def test_what_is_wrong_is_one_sentence(fields, message):
    with pytest.raises(BadInputError, match=message):
        list(run(small(**fields)))


def test_no_arms():
    with pytest.raises(BadInputError, match="arms must be at least 1, got 0"):
        list(run(Config(arms=())))
