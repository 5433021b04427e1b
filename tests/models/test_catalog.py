"""Shapes: one count reached in three independent ways, and one configuration read alike by both libraries."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemma_bench.core.errors import BadInputError
from gemma_bench.models.catalog import SIZES, TINY, find

COUNTS = {
    "270m": 268_098_176,
    "1b": 999_885_952,
    "4b": 3_880_099_328,
    "12b": 11_765_788_416,
    "27b": 27_009_002_240,
}
EMBEDDINGS = {"270m": 167_772_160, "1b": 301_989_888, "4b": 671_088_640, "12b": 1_006_632_960, "27b": 1_409_286_144}
LOCAL_AND_GLOBAL = {"270m": (15, 3), "1b": (22, 4), "4b": (29, 5), "12b": (40, 8), "27b": (52, 10)}

any_size = pytest.mark.parametrize("name", [*SIZES, "tiny"])


@pytest.mark.parametrize("name", SIZES)
def test_closed_formula_gives_the_published_counts(name: str) -> None:
    assert find(name).parameter_count == COUNTS[name]
    assert find(name).embedding_parameter_count == EMBEDDINGS[name]


@any_size
def test_tensor_shapes_add_up_to_the_formula(name: str) -> None:
    total = 0
    for shape in find(name).parameter_shapes().values():
        count = 1
        for extent in shape:
            count *= extent
        total += count
    assert total == find(name).parameter_count


@any_size
def test_transformers_builds_the_same_tensors(name: str) -> None:
    from gemma_bench.models.torch_backend import meta_model

    size = find(name)
    built = {key: tuple(value.shape) for key, value in meta_model(size.config()).named_parameters()}
    assert built == size.parameter_shapes()


@any_size
def test_both_libraries_read_the_same_configuration(name: str) -> None:
    from mlx_lm.models.gemma3_text import ModelArgs
    from transformers import Gemma3TextConfig

    size = find(name)
    theirs, mlx = Gemma3TextConfig(**size.config()), ModelArgs.from_dict(size.config())
    assert tuple(theirs.layer_types) == size.layer_types
    mlx_types = [
        "full_attention" if (layer + 1) % mlx.sliding_window_pattern == 0 else "sliding_attention"
        for layer in range(mlx.num_hidden_layers)
    ]
    assert tuple(mlx_types) == size.layer_types
    full, sliding = theirs.rope_parameters["full_attention"], theirs.rope_parameters["sliding_attention"]
    assert (full["rope_theta"], sliding["rope_theta"]) == (mlx.rope_theta, mlx.rope_local_base_freq) == (1e6, 1e4)
    assert full.get("factor") == (mlx.rope_scaling or {}).get("factor") == size.rope_scaling_factor
    assert sliding["rope_type"] == "default"
    assert theirs.sliding_window == mlx.sliding_window == size.sliding_window
    assert theirs.query_pre_attn_scalar == mlx.query_pre_attn_scalar == size.query_pre_attn_scalar
    assert theirs.tie_word_embeddings


@pytest.mark.parametrize("name", SIZES)
def test_five_to_one_is_exact_only_where_layers_divide_by_six(name: str) -> None:
    types = find(name).layer_types
    counted = (types.count("sliding_attention"), types.count("full_attention"))
    assert counted == LOCAL_AND_GLOBAL[name]
    assert (counted[0] == 5 * counted[1]) == (name in ("270m", "12b"))
    assert types[0] == "sliding_attention"


def test_cache_of_the_report_sizes_at_32k() -> None:
    """Known answers: (G·ctx + L·min(ctx, w))·2·kv·hd·2 bytes by hand."""
    assert find("12b").kv_cache_bytes(32_768, 2) == (8 * 32_768 + 40 * 1024) * 2 * 8 * 256 * 2
    assert round(find("27b").kv_cache_bytes(32_768, 2) / 1e9, 3) == 3.121
    assert round(find("1b").kv_cache_bytes(32_768, 2) / 1e9, 3) == 0.146


@given(st.sampled_from([*SIZES]), st.integers(0, 40_000), st.integers(1, 8))
def test_cache_grows_with_the_context_and_by_global_layers_only_past_the_window(
    name: str, context: int, batch: int
) -> None:
    size = find(name)
    held, next_held = size.kv_cache_bytes(context, 2, batch_size=batch), size.kv_cache_bytes(context + 1, 2)
    assert held == batch * size.kv_cache_bytes(context, 2)
    step = next_held - size.kv_cache_bytes(context, 2)
    growing = size.num_hidden_layers if context < size.sliding_window else size.layer_types.count("full_attention")
    assert step == growing * 2 * size.num_key_value_heads * size.head_dim * 2


@given(st.sampled_from([*SIZES]), st.sampled_from([2, 3, 4, 6, 8]), st.sampled_from([32, 64, 128]))
def test_quantised_weights_cost_their_bits_and_the_groups(name: str, bits: int, group: int) -> None:
    size = find(name)
    matrices = sum(rows * columns for rows, columns in size.matrix_shapes().values())
    norms = size.parameter_count - matrices
    assert size.weight_bytes(bits, group) * 8 == matrices * bits + matrices // group * 32 + norms * 16


def test_weights_of_the_12b() -> None:
    assert round(find("12b").weight_bytes(16) / 1e9, 2) == 23.53
    assert round(find("12b").weight_bytes(4, 64) / 1e9, 2) == 6.62


def test_unknown_size_lists_the_known_ones() -> None:
    with pytest.raises(BadInputError, match="unknown model size '2b', expected one of 270m, 1b, 4b, 12b, 27b, tiny"):
        find("2b")
    assert find("tiny") is TINY


def test_negative_context_is_refused() -> None:
    with pytest.raises(BadInputError, match="at least 0 tokens, got -1"):
        TINY.kv_cache_bytes(-1, 2)
