"""Known-bad variants of chapter 2: each returns a context manager under which a check must reverse its verdict."""

from contextlib import ExitStack
from dataclasses import replace
from unittest.mock import patch

from gemma_bench.core import known_machines
from gemma_bench.models import catalog
from gemma_bench.models.catalog import Size


def _m3_ultra(**fields):
    return patch.object(known_machines, "M3_ULTRA", known_machines.M3_ULTRA.model_copy(update=fields))


def gib_taken_for_gb():
    from gemma_bench.measure import cost

    share = cost.bandwidth_share_percent
    return patch.object(cost, "bandwidth_share_percent", lambda size, *rest: share(size * 2**30 / 1e9, *rest))


def sixteen_bits_at_four_bytes():
    right = Size.weight_bytes
    return patch.object(Size, "weight_bytes", lambda size, bits, group=None: right(size, max(bits, 32), group))


def four_bytes_a_parameter():
    return sixteen_bits_at_four_bytes()


def eight_bits_taken_for_four():
    right = catalog.bits_per_weight
    return patch.object(catalog, "bits_per_weight", lambda bits, group_size: right(2 * bits, group_size))


def cache_of_8_gb():
    return _m3_ultra(cache_bytes=8_000_000_000)


def group_of_32():
    from gemma_bench.models import convert_mlx

    right = convert_mlx.convert
    return patch.object(convert_mlx, "convert", lambda folder, bits, group_size, where: right(folder, bits, 32, where))


def biases_left_out():
    from gemma_bench.measure import storage

    read = storage.read_headers

    def without_biases(path):
        return {name: header for name, header in read(path).items() if not name.endswith(".biases")}

    return patch.object(storage, "read_headers", without_biases)


def macs_of_64_to_192_gb_only():
    return patch("published.speed.working_set_percents", lambda: [75.0, 75.0, 75.0])


def one_byte_a_parameter():
    return patch("gemma_bench.measure.cost.BF16_BYTES", 1)


def two_bytes_a_quantised_weight():
    return patch.object(catalog, "bits_per_weight", lambda bits, group_size: 16)


def cores_taken_for_devices():
    return _m3_ultra(gpu_devices_count=known_machines.M3_ULTRA.gpu_cores_count)


def bandwidth_of_one_die():
    return _m3_ultra(bandwidth_bytes_per_s=known_machines.M3_ULTRA.bandwidth_bytes_per_s / 2)


def clock_in_microseconds():
    from gemma_bench.measure import throughput

    right = throughput.clock
    return patch.object(throughput, "clock", lambda: right() // 1000)


def text_decoded_anew_every_token():
    from gemma_bench.measure import throughput

    right = throughput.step_by_step

    def steps(backend, prompt, cache, count):
        text = []
        for chosen in right(backend, prompt, cache, count):
            text += chosen.tolist()
            backend.tokenizer.decode(40 * text)
            yield chosen

    return patch.object(throughput, "step_by_step", steps)


def last_tokens_a_fifth_slower():
    from gemma_bench.core.intervals import Interval
    from gemma_bench.experiments.steady_rate import SteadyRecord

    right = SteadyRecord.ratio.fget
    return patch.object(SteadyRecord, "ratio", property(lambda record: Interval(*(1.2 * end for end in right(record)))))


def bias_left_in():
    return patch("gemma_bench.measure.throughput_mlx.without_bias", lambda rate, count: rate)


def _study(change, *names):
    from published import speed

    right = speed.study_table()
    right.rows |= {name: change(right.rows[name]) for name in names or right.rows}
    return patch.object(speed, "study_table", lambda: right)


def _slowed(*names, by=0.5):
    return _study(lambda row: replace(row, rates=tuple(by * rate for rate in row.rates)), *names)


def throttled_to_half():
    return _slowed()


def only_4_bit_throttled():
    return _slowed("mlx 4-bit")


def only_mps_throttled():
    return _slowed("mps 16-bit")


def slower_with_length():
    return _slowed("mlx 4-bit long", by=0.8)


def peak_with_the_allocator_s_cache():
    return _study(lambda row: replace(row, peak_bytes=9_100_000_000), "mlx 4-bit")


def four_bits_without_its_kernel():
    """Make a product as slow as forty: all but the first of them read a cache, where it is large."""
    from gemma_bench.measure import matvec

    right = matvec.int4_times
    return patch.object(matvec, "int4_times", lambda *arrays: [right(*arrays) for _ in range(40)][-1])


def half_the_rows():
    from torch import nn

    from gemma_bench.measure import matvec

    def product(vectors, packed, scales):
        half = len(packed) // 2
        return nn.functional.pad(
            right(vectors, packed[:half], scales[:, : scales.shape[1] // 2].contiguous()), (0, half)
        )

    right = matvec.int4_times
    return patch.object(matvec, "int4_times", product)


def clock_that_does_not_wait():
    import numpy as np

    from gemma_bench.measure import throughput, throughput_mlx

    both = ExitStack()
    for module in (throughput, throughput_mlx):
        both.enter_context(patch.object(module, "wait", lambda *_: np.array([7])))
    return both


def ceiling_of_unwritten_memory():
    import torch

    from gemma_bench.measure import bandwidth

    return patch.object(bandwidth, "touched", lambda size, device: torch.empty(size // 4, device=device))


def activations_forgotten():
    return patch("gemma_bench.measure.peak._in_flight", lambda *_: 0)


def rows_taken_for_each_other():
    from gemma_bench.experiments import speed_table

    right = speed_table.ratio
    return patch.object(speed_table, "ratio", lambda rates, over: right(over, rates))
