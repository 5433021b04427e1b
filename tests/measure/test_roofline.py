"""The cost of a pass over a block: known answers, limits, and the equation of the speed-up."""

import pytest

from gemma_bench.core.errors import BadInputError
from gemma_bench.measure.roofline import MENDED, block_speedup, pass_s, product_s, roofline_speedup, slowdown


def test_a_product_takes_the_longer_of_moving_and_computing() -> None:
    """One row moves a byte per weight and is bound by memory; 4096 rows are bound by arithmetic."""
    assert product_s(1, 4096, 4096) == pytest.approx(4096 * 4098 / (3.35 * 2**40))
    assert product_s(4096, 4096, 4096) == pytest.approx(2 * 4096**3 / 1978e12)


def test_one_token_costs_one_and_a_wider_block_never_less() -> None:
    costs = [slowdown(MENDED, 4, tokens, 1024) for tokens in (1, 2, 4, 8, 16, 32, 64, 1024)]
    assert costs[0] == 1
    assert costs == sorted(costs)
    assert costs[-1] > 10, "control: far beyond the ridge the cost grows with the width"
    assert pass_s(MENDED, 1, 1, 4_000_000) > 10 * pass_s(MENDED, 1, 1, 16), "control: a long cache costs"


def test_the_speedup_by_hand() -> None:
    """16 tokens in 4 passes: free width saves the passes whole, a first pass of twice the time costs a fifth of it."""
    assert block_speedup(16, 4, 1, 1, 1) == 4
    assert block_speedup(16, 4, 1, 1, 2) == pytest.approx(16 / 5)
    assert block_speedup(1, 1, 1, 1, 1) == 1
    assert roofline_speedup(MENDED, 1, 16, 1024, 4) < 4


def test_fewer_passes_than_one_are_refused() -> None:
    with pytest.raises(BadInputError, match=r"passes per block must be at least 1, got 0\.5"):
        block_speedup(16, 0.5, 1, 1, 1)
