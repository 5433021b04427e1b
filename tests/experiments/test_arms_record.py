"""Arms side by side: differences by seed, and an arm without a fair figure is invalid, never worse."""

from pathlib import Path

import pytest

from gemma_bench.core.errors import BadInputError, InvalidRunError, UnavailableError
from gemma_bench.core.records import read_record
from gemma_bench.experiments import (
    low_rank_comparison,
    low_rank_training,
    merge_frequency,
    rank_one_rules,
    relora_ablation,
)
from gemma_bench.experiments.arms_record import ArmsRecord, best_rate, is_bracketed
from gemma_bench.experiments.low_rank_comparison import next_rate
from gemma_bench.measure.training_closed_form import closed_form
from gemma_bench.measure.training_memory import forecast
from gemma_bench.models.catalog import SIZES
from gemma_bench.training.plan import Plan

(SAMPLE,) = (Path(__file__).parents[1] / "report/sample/results/records/low_rank_training").glob("*.json")


@pytest.fixture(scope="module")
def record():
    return read_record(SAMPLE, ArmsRecord)


def test_differences_are_taken_seed_by_seed(record):
    pairs = zip(record.held_out_nats["lora"], record.held_out_nats["full"], strict=True)
    assert record.excess_nats("lora", over="full") == tuple(lora - full for lora, full in pairs)
    assert record.excess_nats("full", over="full") == (0, 0, 0)


@pytest.mark.parametrize("arms", [("lora", "full"), ("full", "lora")])
@pytest.mark.parametrize(
    ("change", "rule"),
    [({"diverged_arms": ("lora",)}, "diverged"), ({"unbracketed_arms": ("lora",)}, "best rate at the grid's end")],
)
def test_an_arm_without_a_fair_figure_is_invalid_on_either_side(record, arms, change, rule):
    with pytest.raises(InvalidRunError) as caught:
        record.model_copy(update=change).excess_nats(*arms)
    assert caught.value.rule == rule


def test_an_unknown_arm_lists_the_known_ones(record):
    with pytest.raises(BadInputError, match="unknown arm 'dora', expected one of full, lora, relora"):
        record.excess_nats("dora", over="full")


def test_a_grid_grows_towards_its_best_end_and_a_diverged_rate_is_never_best():
    assert next_rate({1.0: 3.0, 2.0: 2.0, 4.0: 3.0}) is None
    assert next_rate({1.0: 1.0, 2.0: 2.0, 4.0: 3.0}) == 0.5
    assert next_rate({1.0: 3.0, 2.0: 2.0, 4.0: 1.0}) == 8.0
    assert best_rate({1.0: None, 2.0: 9.0, 4.0: None}) == 2.0
    assert is_bracketed({1.0: 3.0, 2.0: 2.0, 4.0: None})


@pytest.mark.parametrize("experiment", [low_rank_training, relora_ablation, merge_frequency, rank_one_rules])
def test_runs_that_would_not_fit_side_by_side_are_refused_before_the_first(monkeypatch, experiment):
    monkeypatch.setattr(low_rank_comparison, "free_bytes", lambda _: 2**20)
    monkeypatch.setattr(low_rank_comparison, "_run", lambda *_: pytest.fail("a run began"))
    with pytest.raises(UnavailableError, match=r"needs 0\.0 GiB, 1 at a time, 0\.0 GiB available"):
        next(iter(experiment.run(experiment.FIXTURE)))


def test_the_largest_preset_is_counted_without_a_gpu(monkeypatch):
    monkeypatch.setattr(low_rank_comparison, "free_bytes", lambda _: 79 * 2**30)
    low_rank_comparison.check_memory(low_rank_training.FULL.comparison(), "cuda")
    monkeypatch.setattr(low_rank_comparison, "free_bytes", lambda _: 4 * 2**30)
    with pytest.raises(UnavailableError, match=r"needs \d+\.\d GiB, 1 at a time, 4\.0 GiB available"):
        low_rank_comparison.check_memory(low_rank_training.FULL.comparison(), "cuda")


def test_the_largest_preset_has_the_layers_of_the_270m_and_fits_a_gpu_of_80_gb():
    course, arms = low_rank_training.FULL.course, low_rank_training.FULL.comparison().arms
    released, rows = SIZES["270m"], {"batch_size": course.rows, "length": course.length, "dtype": "float32"}
    assert course.size.parameter_count == released.parameter_count - (262_144 - 262) * released.hidden_size
    plans = [Plan(course.size, arm.method, **rows, autocast=True, loss_in_pieces=True) for arm in arms]
    largest = max(plans, key=lambda plan: closed_form(plan).peak_bytes)
    assert forecast(largest).peak_bytes <= closed_form(largest).peak_bytes < 80e9
    assert course.steps % low_rank_training.FULL.cycles == 0
