"""Evidence of chapter 3: what a model holds."""

import pytest


@pytest.fixture
def meter_errors(tiny):
    """Return how far the meter is off at both ends, in percent of the data, by model.

    The set has N·(S·log2 V − log2 N) bits: its sequences are all different, and nobody can know which comes next.
    """
    from math import log2

    import numpy as np

    from gemma_bench.measure import likelihood
    from gemma_bench.measure.capacity import memory, uniform
    from gemma_bench.measure.holding import HoldingModel
    from gemma_bench.models.backend import subject
    from gemma_bench.models.loading import load

    count, length, words, vocab = 128, 16, 256, tiny.size.vocab_size
    data = np.random.default_rng(0).integers(vocab - words, vocab, (count, length))
    untrained, holding = load(tiny, "torch", "cpu"), HoldingModel(data, vocab, start_token=2)
    read = [
        memory(likelihood.of_backend(model), uniform(words), np.split(data, 4)).memorised_bits
        for model in (untrained, holding)
    ]
    data_bits = count * length * log2(words)
    off = {"untrained": abs(read[0]), "holding": abs(read[1] - data_bits + count * log2(count))}
    reason = f"{count} sequences of {length} of {words} tokens: {read[0]:,.0f} bits untrained, {read[1]:,.0f} held"
    return {name: 100 * found / data_bits for name, found in off.items()}, reason, subject(untrained)
