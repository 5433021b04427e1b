"""Membership over data size: relations that hold whatever the numbers are."""

import pytest

from gemma_bench.core.errors import BadInputError, InvalidRunError
from gemma_bench.experiments.membership import FIXTURE, capacities, run

CONFIG = FIXTURE.model_copy(update={"seeds": (0, 1)})


@pytest.fixture(scope="module")
def record():
    (found,) = run(CONFIG)
    return found


def test_a_row_for_every_law_seed_and_size(record):
    assert len(record.samples) == 2 * 2 * 2
    for rule in (0.0, 0.8):
        few, many = record.sizes(rule)
        assert 5 * few < many
        assert len(record.column("auc_ratio", rule, few)) == 2


@pytest.mark.parametrize("rule", [0.0, 0.8])
def test_more_data_hide_their_members(record, rule):
    few, many = (record.column("auc_ratio", rule, size) for size in record.sizes(rule))
    assert min(few) > max(many) > 0.5


def test_members_cost_less_than_others_and_others_more_than_under_the_law(record):
    assert max(record.other_bits_per_sequence) < 0
    assert all(
        member > other
        for member, other in zip(record.member_bits_per_sequence, record.other_bits_per_sequence, strict=True)
    )


def test_others_against_others_are_told_apart_by_chance(record):
    assert record.control_auc_ratio == pytest.approx([0.5] * 8, abs=0.15)


def test_intervals_hold_their_figures(record):
    for name in ("auc", "f1"):
        ends = (getattr(record, f"{name}{end}_ratio") for end in ("_low", "", "_high"))
        assert all(low <= value <= high for low, value, high in zip(*ends, strict=True))
    assert record.f1_floor_ratio == pytest.approx(2 / 3)


def test_capacity_is_the_most_that_uniform_strings_made_a_seed_hold(record):
    held = {
        seed: [
            count * bits
            for rule, owner, count, bits in zip(
                record.rule_ratios, record.seeds, record.sequences_counts, record.member_bits_per_sequence, strict=True
            )
            if rule == 0 and owner == seed
        ]
        for seed in (0, 1)
    }
    assert record.capacity_bits == pytest.approx([max(held[0]), max(held[1])])
    for data, over, seed in zip(record.data_bits, record.over_capacity_ratio, record.seeds, strict=True):
        assert data / over == pytest.approx(record.capacity_bits[seed])


def test_workers_find_what_one_process_finds():
    brief = CONFIG.model_copy(update={"visits": 10})
    (one,), (two,) = run(brief), run(brief.model_copy(update={"workers": 2}))
    assert two.auc_ratio == pytest.approx(one.auc_ratio, abs=0.05)
    assert two.sequences_counts == one.sequences_counts


def test_a_model_that_blew_up_is_left_out_and_named():
    rows = [
        {"rule_ratios": 0.0, "seeds": 0, "sequences_counts": 10, "member_bits_per_sequence": 3.0},
        {"rule_ratios": 0.8, "seeds": 0, "sequences_counts": 10, "member_bits_per_sequence": 9.0},
    ]
    assert capacities(rows) == {0: 30.0}
    with pytest.raises(InvalidRunError, match="rule 0, seed 0") as caught:
        run(CONFIG.model_copy(update={"rate": 1e30, "visits": 20}))
    assert caught.value.rule == "diverged"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seeds": ()}, "seeds must be at least 1, got 0"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"visits": 0}, "visits must be at least 1, got 0"),
        ({"uniform_fill_ratios": ()}, "data must be at least 8 sequences at every fill ratio, got 0"),
        ({"rule_fill_ratios": (0.01,)}, "data must be at least 8 sequences at every fill ratio, got 0"),
        ({"rule_ratio": 0.0}, "rule must be between 0 and 1"),
        ({"rule_ratio": 1.0}, "rule must be between 0 and 1"),
        ({"scored_sequences": 4}, "scored sequences must be at least 8, got 4"),
        ({"symbols": 1}, "symbols must be at least 2, got 1"),
        ({"length_tokens": 0}, "length must be at least 1, got 0"),
    ],
)
def test_what_is_wrong_is_one_sentence(fields, message):
    with pytest.raises(BadInputError, match=message):
        run(CONFIG.model_copy(update=fields))
