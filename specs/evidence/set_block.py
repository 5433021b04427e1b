"""Evidence of chapter 6: how many forward passes a block can save, and what they cost."""

import pytest


@pytest.fixture
def sampler_disagreements():
    """Return in how many of 4,000 random blocks the entropy-bounded sampler is not the definition, tried by length."""
    import numpy as np

    from gemma_bench.methods.block_samplers import EntropyBounded

    random, off = np.random.default_rng(0), 0
    for _ in range(4000):
        found = random.exponential(random.choice([0.02, 0.3, 2.0]), random.integers(1, 17))
        gamma = random.choice([0.0, 0.1, 0.35, 1.5, np.inf])
        ranked = np.sort(found)
        wanted = max(n for n in range(1, len(found) + 1) if ranked[: n - 1].sum() <= gamma)
        fixed = EntropyBounded(gamma).fix(found, np.exp(-found))
        off += not np.array_equal(np.sort(found[fixed]), ranked[:wanted])
    return off, "blocks of 1 to 16 tokens at γ of 0, 0.1, 0.35, 1.5 and ∞ nats, entropies all positive"
