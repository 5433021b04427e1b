"""Known-bad variants of chapter 3: each returns a context manager under which a check must reverse its verdict."""

from dataclasses import replace
from unittest.mock import patch

from gemma_bench.models.catalog import Size


def labels_shifted_without_start():
    from gemma_bench.measure import likelihood

    right = likelihood.of_backend
    return patch.object(likelihood, "of_backend", lambda backend: lambda tokens: right(backend)(tokens)[:, 1:])


def nats_taken_for_bits():
    from gemma_bench.measure import capacity

    return patch.object(capacity, "bits", lambda nats: nats.sum(axis=1))


def below_zero_counted():
    from gemma_bench.measure import capacity

    return patch.object(capacity, "memorised", lambda saved: saved)


def cells_of_3_642():
    from published import capacity

    rows = capacity.sweeps()
    cells = [replace(row, expected_bits=min(3.642 * row.parameters, row.data_bits)) for row in rows]
    return patch.object(capacity, "sweeps", lambda: cells)


def law_the_other_way_up():
    from published import capacity

    return patch.object(capacity, "printed_arguments", lambda row: {"sequences": capacity.recovered_argument(row)})


def head_counted_apart():
    count = Size.parameter_count.fget
    return patch.object(Size, "parameter_count", property(lambda size: count(size) + size.embedding_parameter_count))


def bf16_slope():
    return patch("published.capacity.BITS_PER_PARAMETER", 3.51)


def _column(name, wrong):
    from gemma_bench.experiments.fine_tune_memorization import FineTuneRecord

    right = FineTuneRecord.column

    def column(record, asked, sequences):
        return wrong(record, right, sequences) if asked == name else right(record, asked, sequences)

    return patch.object(FineTuneRecord, "column", column)


def every_sample_memorised():
    def whole(record, right, sequences):
        return [bits / sequences for bits in right(record, "data_bits", sequences)]

    return _column("memorised_bits_per_sequence", whole)


def held_out_never_improves():
    def before(record, right, sequences):
        return right(record, "base_held_out_bits_per_token", sequences)

    return _column("held_out_bits_per_token", before)


def _rounded_to(few):
    from gemma_bench.experiments import quantized_memory

    def to(rounding):
        return lambda weights, bits, group_size: rounding(weights, few(bits), group_size)

    ways = {name: to(rounding) for name, rounding in quantized_memory.ROUNDINGS.items()}
    return patch.object(quantized_memory, "ROUNDINGS", ways)


def rounded_to_three_bits_less():
    return _rounded_to(lambda bits: max(1, bits - 3))


def rounded_to_twice_the_bits():
    return _rounded_to(lambda bits: min(8, 2 * bits))


def first_block_counted_for_more():
    from gemma_bench.experiments.layer_capacity import LayerRecord

    right = LayerRecord.marginals
    return patch.object(
        LayerRecord, "marginals", lambda record: [[1.3 * first, *rest] for first, *rest in right(record)]
    )
