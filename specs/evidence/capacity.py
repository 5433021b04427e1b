"""Evidence of chapter 3: what a model holds."""

import pytest

from gemma_bench.claims import Measured


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


@pytest.fixture
def hand_over():
    """Return what judges a record of fine-tunes: from the data that just fit to the largest, what falls least.

    Both figures are ratios, largest data over those that just fit: memorised bits per sample, and held-out loss.
    """
    from gemma_bench.core.errors import UnavailableError
    from gemma_bench.core.intervals import median_interval

    def judged(record):
        sizes = sorted(set(record.sequences_counts))
        data = {size: min(record.column("data_bits", size)) for size in sizes}
        fit = max((size for size in sizes if data[size] <= record.capacity_bits), default=sizes[0])
        if data[sizes[-1]] < 2 * record.capacity_bits:
            each = data[sizes[-1]] / sizes[-1]
            raise UnavailableError(
                "data",
                f"the largest data do not exceed capacity twice: {2 * record.capacity_bits / each:,.0f} sequences would",
            )
        columns = ("memorised_bits_per_sequence", "held_out_bits_per_token")
        falls = {name: _ratios(record, name, sizes[-1], fit) for name in columns}
        worst = max(falls, key=lambda name: median_interval(falls[name]).value)
        seen = ", ".join(
            f"{size:,}: {_mean(record, columns[0], size):.1f} and {_mean(record, columns[1], size):.2f}"
            for size in sizes
        )
        reason = (
            f"{record.model}, {record.trained_parameters_count:,} trained parameters hold {record.capacity_bits:,.0f} bits; "
            f"sequences: bits memorised of each and held-out bits per token: {seen}; before: "
            f"{record.base_held_out_bits_per_token[0]:.2f}"
        )
        measured = Measured.within(median_interval(falls[worst]), f"× ({worst})", falls[worst])
        return measured, reason

    return judged


def _ratios(record, name, large, small):
    return [a / b for a, b in zip(record.column(name, large), record.column(name, small), strict=True)]


def _mean(record, name, size):
    return sum(record.column(name, size)) / len(record.column(name, size))
