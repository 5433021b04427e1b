"""Charts of the limits of capacity: what is drawn is what records made by hand hold."""

import csv
from pathlib import Path

import pytest

from gemma_bench.core.records import Subject
from gemma_bench.experiments.double_descent import DescentRecord
from gemma_bench.experiments.membership import MembershipRecord
from gemma_bench.report.capacity_charts import PUBLISHED
from gemma_bench.report.capacity_limit_charts import descent_charts, membership_charts

COMMON = {"experiment_version": 1, "config_json": "{}", "scale": "study", "samples": (), "parameters_count": 1200}
SHAPE = {"vocabulary_count": 64, "length_tokens": 16}


@pytest.fixture
def members():
    rows = [(rule, seed, size) for rule in (0.0, 0.8) for seed in (0, 1) for size in (10, 1000)]
    auc = tuple(1 - size / 2500 - rule / 10 - seed / 100 for rule, seed, size in rows)
    figures = {f"{name}{end}_ratio": auc for name in ("auc", "f1") for end in ("", "_low", "_high")}
    return MembershipRecord.measured(
        Subject(),
        experiment="membership",
        **COMMON,
        **SHAPE,
        **figures,
        visits_count=200,
        rule_ratios=tuple(rule for rule, _, _ in rows),
        seeds=tuple(seed for _, seed, _ in rows),
        sequences_counts=tuple(size for _, _, size in rows),
        data_bits=tuple(96.0 * size for _, _, size in rows),
        over_capacity_ratio=tuple(size / 30 for _, _, size in rows),
        member_bits_per_sequence=tuple(30 / size for _, _, size in rows),
        other_bits_per_sequence=tuple(-60 / size for _, _, size in rows),
        control_auc_ratio=(0.5,) * 8,
        f1_floor_ratio=2 / 3,
        capacity_seeds=(0, 1),
        capacity_bits=(3000.0, 3100.0),
        diverged=(),
    )


@pytest.fixture
def descent():
    rows = [(steps, seed, bits) for steps in (800, 400) for seed in (0, 1) for bits in (500.0, 1000.0, 4000.0)]
    return DescentRecord.measured(
        Subject(),
        experiment="double_descent",
        **COMMON,
        **SHAPE,
        rule_ratio=0.8,
        entropy_bits_per_token=1.9,
        steps_counts=tuple(steps for steps, _, _ in rows),
        seeds=tuple(seed for _, seed, _ in rows),
        sequences_counts=tuple(int(bits / 30) for *_, bits in rows),
        data_bits=tuple(bits for *_, bits in rows),
        test_bits_per_token=tuple(10 + seed + (bits == 1000) for _, seed, bits in rows),
        train_bits_per_token=tuple(bits / 4000 for *_, bits in rows),
        capacity_steps_counts=(800, 800, 400, 400),
        capacity_seeds=(0, 1, 0, 1),
        capacity_bits=(2000.0, 2000.0, 1000.0, 1000.0),
    )


def test_a_line_per_law_of_means_over_seeds(members):
    attack, gap = membership_charts([members])
    uniform, foretold, rule = attack.series
    assert [uniform.name, rule.name] == ["uniform strings", "a rule that holds 80 % of the time"]
    assert foretold.y == pytest.approx([0.9254, 0.5573], abs=1e-4)
    assert uniform.y == pytest.approx([0.991, 0.595])
    assert uniform.x == pytest.approx([1 / 3, 100 / 3])
    assert all(low < y < high for one in (uniform, rule) for low, y, high in zip(one.low, one.y, one.high, strict=True))
    assert gap.series[1].y == pytest.approx([9, 0.09])


def test_a_line_per_number_of_steps_over_its_own_capacity(descent):
    test, train = descent_charts([descent])
    assert [(one.name, one.is_dashed) for one in test.series] == [("800 steps", False), ("400 steps", True)]
    assert [one.x for one in test.series] == [[0.25, 0.5, 2.0], [0.5, 1.0, 4.0]]
    assert test.series[0].y == pytest.approx([10.5, 11.5, 10.5])
    assert train.series[1].y == pytest.approx([0.125, 0.25, 1.0])
    assert descent.peak(800, 0).ratio == 0.5


def test_published_capacities_are_those_that_the_claims_are_judged_by():
    table = Path(__file__).parents[2] / "specs" / "data" / "morris_capacity_partial.csv"
    rows = list(csv.DictReader(table.open(encoding="utf-8")))
    for precision, column in (("float32", "capacity_fp32_bits"), ("bfloat16", "capacity_bf16_bits")):
        assert PUBLISHED[precision] == {int(row["parameters"]): float(row[column]) for row in rows}
