"""Test loss over data size: known curves peak where they do, and relations that hold whatever the numbers are."""

import pytest

from gemma_bench.core.errors import BadInputError, InvalidRunError
from gemma_bench.experiments.double_descent import FIXTURE, Peak, peak, run

CONFIG = FIXTURE.model_copy(update={"fill_ratios": (0.5, 1.5, 60.0), "steps": (400, 200), "seeds": (0, 1)})


@pytest.fixture(scope="module")
def record():
    (found,) = run(CONFIG)
    return found


@pytest.mark.parametrize(
    ("losses", "found"),
    [
        ([9, 5, 7, 8, 3, 2], Peak(4.0, 3.0, 5.0, 3.0)),
        ([9, 8, 7, 5, 3, 2], Peak(1.0, 1.0, 2.0, 0.0)),
        ([2, 3, 5, 7, 8, 9], Peak(6.0, 5.0, 6.0, 7.0)),
        ([9, 5, 6, 2, 4, 1], Peak(5.0, 4.0, 6.0, 2.0)),
    ],
)
def test_a_peak_is_where_a_curve_has_climbed_most(losses, found):
    assert peak([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], losses) == found


def test_a_row_for_every_run_and_size(record):
    assert len(record.test_bits_per_token) == 2 * 2 * 3
    assert len(record.capacity_bits) == len(record.samples) == 2 * 2
    for steps in CONFIG.steps:
        for seed in CONFIG.seeds:
            assert record.column("data_bits", steps, seed) == sorted(record.column("data_bits", steps, seed))


def test_more_steps_hold_more(record):
    assert all(record.capacity(400, seed) > record.capacity(200, seed) > 0 for seed in CONFIG.seeds)


def test_few_strings_are_learnt_by_heart_and_many_teach_the_rule(record):
    for seed in CONFIG.seeds:
        test, train = (record.column(f"{which}_bits_per_token", 400, seed) for which in ("test", "train"))
        assert train[0] < 0.5 * record.entropy_bits_per_token
        assert test[0] > 6
        assert test[2] < 6
        assert test[2] > record.entropy_bits_per_token
        assert test[2] - train[2] < test[0] - train[0]


@pytest.mark.parametrize("steps", CONFIG.steps)
def test_a_peak_is_data_over_the_capacity_of_the_same_run(record, steps):
    for seed in CONFIG.seeds:
        data = record.column("data_bits", steps, seed)
        assert record.peak(steps, seed).ratio * record.capacity(steps, seed) in [pytest.approx(bits) for bits in data]


def test_a_model_that_blew_up_is_no_evidence():
    with pytest.raises(InvalidRunError, match="seed 0"):
        run(CONFIG.model_copy(update={"rate": 1e30, "steps": (60,)}))


def test_a_model_that_holds_nothing_is_no_evidence():
    with pytest.raises(InvalidRunError, match="not memorised at all") as caught:
        run(CONFIG.model_copy(update={"rate": 0.0, "steps": (20,)}))
    assert caught.value.rule == "too short"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seeds": ()}, "seeds must be at least 1, got 0"),
        ({"steps": ()}, "steps must be given at least once"),
        ({"rule_ratio": 1.0}, "rule must be between 0 and 1"),
        ({"fill_ratios": (1.0, 2.0)}, "a peak needs at least 3 rising fill ratios"),
        ({"fill_ratios": (1.0, 3.0, 2.0)}, "a peak needs at least 3 rising fill ratios"),
        ({"fill_ratios": (0.001, 1.0, 2.0)}, "data must be at least 1 sequence"),
        ({"capacity_fills": ()}, "capacity needs at least 1 sequence"),
        ({"test_sequences": 0}, "test sequences must be at least 1, got 0"),
        ({"symbols": 1}, "symbols must be at least 2, got 1"),
    ],
)
def test_what_is_wrong_is_one_sentence(fields, message):
    with pytest.raises(BadInputError, match=message):
        run(CONFIG.model_copy(update=fields))
