"""Known-bad variants of chapter 1: each returns a context manager under which a check must reverse its verdict."""

from functools import partial
from unittest.mock import patch

from gemma_bench.models import catalog
from gemma_bench.models.catalog import Size


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
