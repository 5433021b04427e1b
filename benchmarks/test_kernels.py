"""What decoding is made of, timed by pytest-benchmark: a product in 16 and in 4 bits, a norm, a choice."""

import numpy as np
import pytest
import torch

from gemma_bench.measure.matvec import bf16_product, int4_product
from gemma_bench.models import decoder
from gemma_bench.models.sampling import Greedy, Sampled

SHAPE = (2048, 640)
VOCAB = 262_144


@pytest.mark.parametrize("product", [bf16_product, int4_product])
def test_product(benchmark, product):
    """Every call multiplies by the next of as many copies as no cache holds."""
    made = product(SHAPE)
    assert torch.isfinite(benchmark(made.run)).all()


def test_norm(benchmark):
    normed = benchmark(decoder._norm, torch.full((1, 640), 3.0), torch.ones(640))
    assert normed.numpy() == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("sampler", [Greedy(), Sampled(0.8, 0.95)], ids=["greedy", "nucleus"])
def test_choice(benchmark, sampler):
    """One word is far likelier than all others together, so both take it."""
    logits = np.random.default_rng(0).normal(size=VOCAB).astype(np.float32)
    logits[7] = 40
    assert benchmark(sampler.start(), logits) == 7
