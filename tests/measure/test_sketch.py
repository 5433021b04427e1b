"""Sketches of a gradient: known answers for normal draws, and draws that are no sketch."""

import pytest
import torch

from gemma_bench.measure.sketch import bias_over_chance, sketch_moments

DRAWS = 20_000


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("n", [4, 64, 200])
@pytest.mark.parametrize("rank", [1, 4])
def test_normal_draws_are_an_unbiased_sketch_at_any_rank(n, rank):
    gradient = normal(30, rank) @ normal(rank, n, seed=1)
    for found in sketch_moments(gradient, normal(DRAWS, n, seed=2)).values():
        assert found.value == pytest.approx(1, abs=0.06)
        assert found.low - 0.02 < 1 < found.high + 0.02
    assert bias_over_chance(gradient, normal(DRAWS, n, seed=2)) == pytest.approx(1, abs=0.6)


def test_draws_of_length_one_lose_the_scale_but_not_the_cosine():
    draws = normal(DRAWS, 64)
    found = sketch_moments(normal(30, 64, seed=1), draws / draws.norm(dim=1, keepdim=True))
    assert found["mean"].value == pytest.approx(1 / 64, rel=0.05)
    assert found["cosine"].value == pytest.approx(1, abs=0.02)


def test_flat_tails_have_a_smaller_second_moment():
    """Uniform values of variance 1 have kurtosis 1.8 in place of 3: n + 0.8."""
    draws = (torch.rand(DRAWS, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.5) * 12**0.5
    found = sketch_moments(torch.eye(4, dtype=torch.float64), draws)
    assert found["mean"].value == pytest.approx(1, abs=0.02)
    assert found["second moment"].value == pytest.approx(4.8 / 6, abs=0.02)


def test_a_direction_never_drawn_is_bias():
    draws = normal(DRAWS, 10)
    draws[:, 0] = 0
    gradient = torch.zeros(3, 10, dtype=torch.float64)
    gradient[0, 0] = 1.0
    assert bias_over_chance(gradient, draws) > 30
