"""Known-bad variants: each returns a context manager under which the check that names it must reverse its verdict."""

from functools import partial
from unittest.mock import patch

from gemma_bench.core import known_machines
from gemma_bench.models import catalog
from gemma_bench.models.catalog import Size

# Chapter 1: architecture


def _all_sizes(**fields):
    return patch.dict(catalog.SIZES, {name: size.model_copy(update=fields) for name, size in catalog.SIZES.items()})


def untied_head_counted_twice():
    config = Size.config
    return patch.object(Size, "config", lambda size: config(size) | {"tie_word_embeddings": False})


def second_norm_forgotten():
    count = Size.parameter_count.fget
    wrong = property(lambda size: count(size) - size.num_hidden_layers * size.hidden_size)
    return patch.object(Size, "parameter_count", wrong)


def global_layers_one_early():
    types = Size.layer_types.fget
    return patch.object(Size, "layer_types", property(lambda size: types(size)[1:] + types(size)[:1]))


def library_default_window():
    return _all_sizes(sliding_window=4096)


def context_of_gemma_2():
    return _all_sizes(max_position_embeddings=8192)


def one_rope_base_for_all_layers():
    return _all_sizes(rope_theta=10_000.0)


def sizes_of_gemma_1_added():
    return patch.dict(catalog.SIZES, {"2b": catalog.SIZES["1b"], "7b": catalog.SIZES["4b"]})


def _mask_of(module, change):
    """Patch where transformers' Gemma 3 makes the mask of its local layers."""
    make = module.create_sliding_window_causal_mask
    return patch.object(module, "create_sliding_window_causal_mask", partial(change, module, make))


def window_off_by_one():
    from transformers.models.gemma3 import modeling_gemma3

    def wider(module, make, *, config, **rest):
        wide = type(config)(**{**config.to_dict(), "sliding_window": config.sliding_window + 1})
        wide._attn_implementation = config._attn_implementation
        return make(config=wide, **rest)

    return _mask_of(modeling_gemma3, wider)


def local_layer_sees_all():
    from transformers.models.gemma3 import modeling_gemma3

    return _mask_of(modeling_gemma3, lambda module, make, **arguments: module.create_causal_mask(**arguments))


def _cache_formula(wrong):
    right = Size.kv_cache_bytes
    return patch.object(Size, "kv_cache_bytes", lambda size, context, *rest, **more: wrong(right, size, context, *rest))


def cache_without_windows():
    return _cache_formula(lambda right, size, context, width: right(size, context, width, kept_tokens=context))


def full_length_bf16_cache():
    return _cache_formula(lambda right, size, context, width: right(size, context, 2, kept_tokens=context))


def values_forgotten():
    right = Size.kv_cache_bytes
    return patch.object(Size, "kv_cache_bytes", lambda *arguments, **more: right(*arguments, **more) // 2)


def reserved_room_counted():
    from gemma_bench.models.backend_mlx import MlxBackend

    return patch.object(MlxBackend, "cache_bytes", lambda backend, cache: sum(layer.nbytes for layer in cache))


def local_rope_base_on_global_layers():
    from mlx_lm.models import gemma3_text

    make = gemma3_text.initialize_rope
    return patch.object(gemma3_text, "initialize_rope", lambda *a, base, **more: make(*a, base=10_000.0, **more))


def norm_without_plus_one():
    import mlx.core as mx
    from mlx_lm.models import gemma3_text

    return patch.object(gemma3_text.RMSNorm, "__call__", lambda norm, x: mx.fast.rms_norm(x, norm.weight, norm.eps))


def residual_read_after_the_norm():
    from gemma_bench.measure import activations

    return patch.object(
        activations, "residual_layers", lambda model: [layer.input_layernorm for layer in model.model.layers]
    )


def report_of_may():
    return patch("sources.GEMMA3_REPORT", "Gemma Team, arXiv:2505.19786v1")


# Chapter 2: speed


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
    return patch("published.working_set_percents", lambda: [75.0, 75.0, 75.0])


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


def bias_left_in():
    return patch("gemma_bench.measure.throughput_mlx.without_bias", lambda rate, count: rate)


def _study(change):
    import published

    right = published.study_table()
    change(right)
    return patch.object(published, "study_table", lambda: right)


def _slowed(*rows, by=0.5):
    def slow(table):
        for row in rows or table.rates:
            table.rates[row] = [by * rate for rate in table.rates[row]]

    return _study(slow)


def throttled_to_half():
    return _slowed()


def only_4_bit_throttled():
    return _slowed("mlx 4-bit")


def only_mps_throttled():
    return _slowed("mps 16-bit")


def slower_with_length():
    return _slowed("mlx 4-bit long", by=0.8)


def peak_with_the_allocator_s_cache():
    return _study(lambda table: table.peak_bytes.update({"mlx 4-bit": 9.1e9}))


def four_bits_without_its_kernel():
    from gemma_bench.measure import matvec

    right = matvec.int4_times
    return patch.object(matvec, "int4_times", lambda *arrays: [right(*arrays) for _ in range(8)][-1])


def activations_forgotten():
    return patch("gemma_bench.measure.peak._in_flight", lambda *_: 0)
