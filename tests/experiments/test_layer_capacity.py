"""Capacity across layers: relations that hold whatever the numbers are."""

import pytest
import torch

from gemma_bench.core.errors import BadInputError
from gemma_bench.experiments import layer_capacity
from gemma_bench.experiments.layer_capacity import FIXTURE, parts, run
from gemma_bench.training.stack.arms import Arm
from gemma_bench.training.stack.blocks import unpack
from gemma_bench.training.stack.train import Trained

CONFIG = FIXTURE.model_copy(update={"seeds": (0, 1)})


@pytest.fixture(scope="module")
def record():
    (found,) = run(CONFIG)
    return found


def test_a_frozen_block_costs_bits_and_a_marginal_is_per_parameter_of_the_block(record):
    rows = record.marginals()
    assert len(rows) == 2
    for seed, row in enumerate(rows):
        for block, marginal in enumerate(row):
            lost = record.whole_bits[seed] - record.frozen_bits[2 * seed + block]
            assert marginal == pytest.approx(lost / record.block_parameters_count)
            assert marginal > 0


def test_blocks_embedding_and_last_norm_are_the_whole(record):
    rest = CONFIG.symbols * CONFIG.width + CONFIG.width
    assert record.parameters_count == record.layers_count * record.block_parameters_count + rest


def test_the_map_has_a_row_per_fill_and_part(record):
    assert list(dict.fromkeys(record.noise_parts)) == list(parts(CONFIG.shape))
    assert set(record.noise_fill_bits_per_parameter) == {1.0, 4.0}
    assert len(record.noise_lost_bits_per_parameter) == 2 * 5


def test_a_fuller_model_is_more_sensitive(record):
    lost = dict(
        zip(
            zip(record.noise_fill_bits_per_parameter, record.noise_parts, strict=True),
            record.noise_lost_bits_per_parameter,
            strict=True,
        )
    )
    assert sum(lost[4.0, part] for part in parts(CONFIG.shape)) > sum(lost[1.0, part] for part in parts(CONFIG.shape))


def test_without_noise_nothing_is_lost():
    (still,) = run(CONFIG.model_copy(update={"noise_ratio": 0.0, "seeds": (0,), "visits": 30}))
    assert set(still.noise_lost_bits_per_parameter) == {0.0}


def test_noise_touches_the_named_matrices_only():
    shape = CONFIG.shape
    weights = torch.randn(shape.parameter_count)
    model = Trained(Arm(0, 0.0, 1), weights, (), 1, True, None)
    shaken = layer_capacity._shaken(CONFIG, model, ["1.qkv"], 0)
    before, after = unpack(weights[None], shape), unpack(shaken.weights[None], shape)
    assert [name for name in before if not torch.equal(before[name], after[name])] == ["1.qkv"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seeds": ()}, "seeds must be at least 1, got 0"),
        ({"layers": 1}, "layers must be at least 2 to be compared, got 1"),
        ({"fill_ratios": (0.0,)}, "data must be at least 1 sequence at every fill ratio"),
        ({"noise_draws": 0}, "noise draws must be at least 1, got 0"),
        ({"visits": 0}, "visits must be at least 1, got 0"),
        ({"symbols": 1}, "symbols must be at least 2, got 1"),
    ],
)
def test_what_is_wrong_is_one_sentence(fields, message):
    with pytest.raises(BadInputError, match=message):
        run(CONFIG.model_copy(update=fields))
