"""Stacks small enough to check by hand, with weights that no symmetry hides."""

import pytest
import torch

from gemma_bench.training.stack.kernels import compiled
from gemma_bench.training.stack.operations import TORCH
from gemma_bench.training.stack.shape import Shape, gemma3, gpt2, random_weights

SHAPES = {
    "gemma3": gemma3(16, 2, symbols=64, length=16, hidden=40),
    "gemma3 with shared keys": Shape("gemma3", 33, 20, 24, 2, 4, 2, 6, 50),
    "gpt2": gpt2(16, 2, symbols=64, length=24, heads=2),
    "gpt2 wide": gpt2(48, 1, symbols=300, length=40, heads=3),
    "gpt2 whose logits come in pieces": gpt2(16, 1, symbols=2100, length=20, heads=2),
}


@pytest.fixture(params=SHAPES.values(), ids=SHAPES.keys())
def shape(request):
    return request.param


@pytest.fixture(params=["torch", "c"])
def ops(request):
    if request.param == "torch":
        return TORCH
    found = compiled()
    if found is None:
        pytest.skip("no C compiler here")
    return found


@pytest.fixture
def stack(shape):
    """Three models' weights, none of which is at a special value, and five sequences for each."""
    generator = torch.Generator().manual_seed(1)
    weights = torch.stack([random_weights(shape, seed) for seed in range(3)])
    weights += 0.2 * torch.randn(weights.shape, generator=generator)
    return weights, torch.randint(shape.symbols, (3, 5, shape.length + 1), generator=generator)
