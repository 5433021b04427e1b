"""Ranks followed through training: known changes planted by hand, a model left alone, and what watching costs."""

import pytest
import torch

from gemma_bench.core.errors import BadInputError
from gemma_bench.experiments.low_rank_arms import Course
from gemma_bench.measure.rank_evolution import Evolution, effective_weights
from gemma_bench.measure.spectrum import Factors, random_sum
from gemma_bench.training.adapters import attach, layers, merge_and_restart
from gemma_bench.training.corpus import Windows, python_sources
from gemma_bench.training.method import Lora
from gemma_bench.training.micro import MICRO, micro_model
from gemma_bench.training.trainer import fit
from gemma_bench.training.watching import Watcher


@pytest.fixture
def model():
    return micro_model()


def plant(model, rank, seed):
    """Change every matrix by a random one of this rank and of a hundredth of its size."""
    for at, (name, weight) in enumerate(effective_weights(model).items()):
        change = random_sum([1.0] * rank, tuple(weight.shape), seed=seed + at)
        product = change.b @ change.a
        part = model.get_submodule(name)
        part.weight.data += (product * 0.01 * weight.norm() / product.norm()).float()


def test_planted_ranks_are_read_in_every_matrix(model):
    evolution = Evolution(effective_weights(model))
    for step in (1, 2, 3):
        plant(model, 3, seed=100 * step)
        evolution.read(step, model)
    assert evolution.steps == [1, 2, 3]
    assert set(evolution.of_matrices("rank").values()) == {(3, 6, 9)}
    assert len(evolution.readings) == 7 * MICRO.num_hidden_layers
    assert evolution.means("rank") == (3, 6, 9)


def test_a_model_left_alone_has_not_changed(model):
    evolution = Evolution(effective_weights(model))
    evolution.read(1, model)
    assert evolution.means("rank") == evolution.means("effective_rank") == (0,)
    assert evolution.trajectory() == ((0,),)


def test_a_merge_changes_nothing_that_is_read(model):
    adapted = attach(model, 2)
    for layer in layers(adapted).values():
        layer.lora_B["default"].weight.data.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    before = effective_weights(adapted)
    merge_and_restart(layers(adapted), torch.Generator().manual_seed(1))
    after = effective_weights(adapted)
    assert max(float((after[name] - before[name]).abs().max()) for name in before) < 1e-6


def test_random_changes_have_the_null_model_s_effective_rank(model):
    evolution = Evolution(effective_weights(model))
    for step in (1, 2, 3, 4):
        plant(model, 2, seed=100 * step)
        evolution.read(step, model)
    assert evolution.means("effective_rank")[-1] == pytest.approx(evolution.null_effective_rank(2), rel=0.02)


def test_leading_directions_stay_with_a_change_that_only_grows_and_leave_with_another():
    names = {"q_proj": torch.zeros(100, 80, dtype=torch.float64)}
    first, other = random_sum([1.0] * 4, (100, 80)), random_sum([9.0] * 4, (100, 80), seed=1)
    evolution = Evolution(names)
    for step, change in enumerate((first, Factors(2 * first.b, first.a), other)):
        evolution.read_changes(step, {"q_proj": change})
    overlaps = evolution.trajectory()
    assert overlaps[0][1] == pytest.approx(1)
    assert overlaps[0][2] < 0.2
    assert overlaps[2][0] == pytest.approx(overlaps[0][2])


def test_the_watcher_looks_on_time_and_knows_its_share(model):
    rows, seen = Windows(python_sources().train, 32), []
    watcher = Watcher(3, lambda step, _: seen.append(step))
    fit(model, Lora(rank=2), rows, Course(size=MICRO, steps=7).settings(1e-3, 0), callbacks=[watcher])
    assert seen == [3, 6]
    assert 0 < watcher.share < 0.05
    with pytest.raises(BadInputError, match="the interval of looking must be at least 1 step, got 0"):
        Watcher(0, print)
