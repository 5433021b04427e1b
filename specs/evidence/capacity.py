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
            f"{record.model}, {record.trained_parameters_count:,} trained parameters hold {record.capacity_bits:,.0f} bits "
            f"(seeds: {len(falls[worst])}); "
            f"sequences: bits memorised of each and held-out bits per token: {seen}; before: "
            f"{record.base_held_out_bits_per_token[0]:.2f}"
        )
        measured = Measured.within(median_interval(falls[worst]), f"× ({worst})", falls[worst])
        return measured, reason

    return judged


@pytest.fixture
def spread_over_depth(request):
    """Return what tells how far marginal capacities are apart over depth, in percent of their mean.

    Marginals are means over seeds; the interval comes from drawing the seeds anew, ten thousand times.
    """
    import numpy as np
    from evidence.known_answers import same_at_every_depth

    def spread(rows):
        means = np.mean(rows, axis=-2)
        return 100 * np.ptp(means, axis=-1) / means.mean(axis=-1)

    def judged(record):
        rows = np.asarray((same_at_every_depth(record) if request.config.option.faults else record).marginals())
        drawn = np.random.default_rng(0).integers(len(rows), size=(10_000, len(rows)))
        value, (low, high) = float(spread(rows)), np.quantile(spread(rows[drawn]), (0.025, 0.975))
        means = ", ".join(f"{mean:.2f}" for mean in np.mean(rows, axis=0))
        whole = np.mean(record.whole_bits) / record.parameters_count
        reason = f"bits per parameter of the block, first to last: {means}; the whole model: {whole:.2f}"
        reason += f"; {len(rows)} seeds, {record.visits_count} visits; a marginal is no share"
        samples = [float(spread(row[None])) for row in rows]
        return Measured(
            value=value, low=min(low, value), high=max(high, value), unit="% apart", samples=tuple(samples)
        ), reason

    return judged


@pytest.fixture(scope="session")
def rounded_memories(request):
    """Return the record of full models and what rounding leaves of them."""
    from gemma_bench.experiments import quantized_memory

    smaller = {"visits": 200, "seeds": (0, 1)} if request.config.option.faults else {}
    (record,) = quantized_memory.run(quantized_memory.FIXTURE.model_copy(update=smaller))
    return record


@pytest.fixture
def kept_memory(rounded_memories):
    """Return what tells the share that some bits keep, with the better of both roundings, in percent."""
    from gemma_bench.core.intervals import median_interval
    from gemma_bench.core.records import Subject

    def kept(bits):
        record, fill = rounded_memories, rounded_memories.fill_bits_per_parameter[0]
        ways = {name: [100 * part for part in record.kept(bits, name, fill)] for name in set(record.roundings)}
        best = max(ways, key=lambda name: median_interval(ways[name]).value)
        curve = ", ".join(
            f"{few}: {100 * median_interval(record.kept(few, best, fill)).value:.3g} %"
            for few in dict.fromkeys(record.bits)
        )
        held = median_interval(record.whole_bits_per_parameter).value
        reason = (
            f"{record.parameters_count:,} parameters hold {held:.2f} bits each; {best} rounding keeps, by bits: {curve}"
        )
        subject = Subject(model_id=record.model_id, dtype=record.dtype, seed=record.seed)
        return Measured.within(median_interval(ways[best]), "% kept", ways[best]), reason, subject

    return kept


def _ratios(record, name, large, small):
    return [a / b for a, b in zip(record.column(name, large), record.column(name, small), strict=True)]


def _mean(record, name, size):
    return sum(record.column(name, size)) / len(record.column(name, size))
