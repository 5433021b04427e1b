"""The stack against the plain loop: both compute the same, and only then is it worth saying which is faster."""

import numpy as np
import pytest

from gemma_bench.core.errors import BadInputError
from gemma_bench.experiments.engine_speed import FIXTURE, Loop, run
from gemma_bench.training.stack.arms import Arm, Training
from gemma_bench.training.stack.train import train

CONFIG = FIXTURE.model_copy(update={"models": 2, "stack_steps": 4, "loop_steps": 4, "rounds": 2, "sequences": 40})


@pytest.fixture(scope="module")
def record():
    (found,) = run(CONFIG)
    return found


def test_the_ratio_is_that_of_the_times(record):
    assert record.speedup_low_ratio <= record.speedup_ratio <= record.speedup_high_ratio
    assert len(record.samples) == 4
    assert record.stack_ms_per_step > 0
    assert record.loop_ms_per_step > 0


def test_both_compute_the_same(record):
    assert record.largest_difference_nats < 5e-3


def test_bytes_grow_with_the_stack(record):
    (larger,) = run(CONFIG.model_copy(update={"models": 6}))
    assert larger.stack_bytes == 3 * record.stack_bytes


def test_the_loop_learns_what_an_arm_of_the_stack_learns():
    data = np.random.default_rng(1).integers(CONFIG.symbols, size=(24, CONFIG.length_tokens + 1))
    loop = Loop(CONFIG, data, seed=3, steps=150)
    before = loop.nats(data).mean()
    for _ in range(150):
        loop.step()
    (arm,) = train(CONFIG.shape, [Arm(3, CONFIG.rate, 150)], [data], Training(batch=CONFIG.batch_size))
    assert loop.nats(data).mean() == pytest.approx(arm.scorer(CONFIG.shape)(data).mean(), rel=0.05)
    assert loop.nats(data).mean() < 0.5 * before


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"models": 0}, "models must be at least 1, got 0"),
        ({"sequences": 0}, "sequences must be at least 1, got 0"),
        ({"loop_steps": 0}, "loop_steps must be at least 1, got 0"),
        ({"rounds": 1}, "rounds must be at least 2, got 1"),
    ],
)
def test_what_is_wrong_is_one_sentence(fields, message):
    with pytest.raises(BadInputError, match=message):
        run(CONFIG.model_copy(update=fields))
