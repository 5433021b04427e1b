"""Quantised weights in torch: rounding with known answers, and the same function as MLX's and transformers' own."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gemma_bench.core.errors import BadInputError, UnavailableError
from gemma_bench.measure.agreement import agreement
from gemma_bench.models import product, quantising
from gemma_bench.models.catalog import TINY
from gemma_bench.models.convert_mlx import convert
from gemma_bench.models.folder import ModelFolder
from gemma_bench.models.generation import generate
from gemma_bench.models.loading import load
from gemma_bench.models.packed import Int4Linear, Packed, linear, pack
from gemma_bench.models.product import CodedLinear
from gemma_bench.models.ring_cache import RingCache
from gemma_bench.models.rounding import round_fitted, round_min_max
from gemma_bench.models.weights import SCHEMES as SCHEME_NAMES
from gemma_bench.models.weights import locate

TOKENS = list(range(30, 60))
SCHEMES = ("NAIVE", "FITTED", "FITTED_HEAD_8", "MIXED", "ALL_8")


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([2, 3, 4, 8]), st.sampled_from([32, 64]))
def test_fitting_is_never_worse_than_smallest_to_largest(seed: int, bits: int, group_size: int) -> None:
    weights = torch.randn(4, 128, generator=torch.Generator().manual_seed(seed))
    plain, fitted = (
        (rounding(weights, bits, group_size).values() - weights).square().sum()
        for rounding in (round_min_max, round_fitted)
    )
    assert fitted <= plain * (1 + 1e-5)


@pytest.mark.parametrize("used", [(0, 15), (0, 9), (3, 12)])
def test_weights_on_a_grid_of_16_levels_come_back_exactly(used: tuple[int, int]) -> None:
    codes = torch.randint(used[0], used[1] + 1, (8, 128), generator=torch.Generator().manual_seed(0)).float()
    weights = codes * 0.03125 - 0.25
    assert torch.equal(round_fitted(weights, 4, 32).values(), weights)


@pytest.fixture(scope="module", params=SCHEMES)
def quantised(request: Any, tiny: ModelFolder, tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    return quantising.quantise(tiny, getattr(quantising, request.param), tmp_path_factory.mktemp("q") / request.param)


def test_torch_and_mlx_read_the_same_function_from_one_folder(quantised: ModelFolder) -> None:
    found = agreement(load(quantised, "mlx"), load(quantised, "torch"), TOKENS)
    assert found.kl_nats.max() < 0.05, "bfloat16 rounds activations differently, no more"


def test_eight_bits_are_closer_to_the_model_than_four(tiny: ModelFolder, tmp_path: Any) -> None:
    reference = load(tiny, "torch", "cpu")
    four, eight = (
        agreement(reference, load(quantising.quantise(tiny, scheme, tmp_path / name), "torch"), TOKENS).kl_nats.mean()
        for name, scheme in (("four", quantising.FITTED), ("eight", quantising.ALL_8))
    )
    assert eight < 0.05 < four


def test_cached_steps_are_one_reading_across_the_window(quantised: ModelFolder) -> None:
    backend = load(quantised, "torch")
    whole = backend.numpy(backend.logits([TOKENS]))[0]
    cache = backend.new_cache()
    steps = [backend.numpy(backend.logits([[token]], cache=cache))[0, 0] for token in TOKENS]
    for position, step in enumerate(steps):
        assert step.argmax() == whole[position].argmax() or abs(step - whole[position]).max() < 0.5
    assert backend.read_tokens(cache) == len(TOKENS)
    kept = backend.kept_tokens(len(TOKENS))
    assert backend.cache_bytes(cache) == TINY.kv_cache_bytes(len(TOKENS), 2, kept_tokens=kept)


def test_it_writes_greedily_like_the_plain_model_in_eight_bits(tiny: ModelFolder, tmp_path: Any) -> None:
    eight = load(quantising.quantise(tiny, quantising.ALL_8, tmp_path / "eight"), "torch")
    plain = load(tiny, "torch", "cpu")
    ours, theirs = (list(generate(model, TOKENS[:12], 8)) for model in (eight, plain))
    assert ours[0] == theirs[0]
    assert eight.weight_bytes() < plain.weight_bytes() / 3


def test_what_torch_does_not_serve_is_refused(tiny: ModelFolder, tmp_path: Any) -> None:
    three = convert(tiny, 3, 64, tmp_path / "three")
    with pytest.raises(BadInputError, match="3"):
        load(three, "torch")
    four = convert(tiny, 4, 64, tmp_path / "four")
    with pytest.raises(UnavailableError, match="on cpu only, got device 'cuda'"):
        load(four, "torch", "cuda")
    with pytest.raises(BadInputError, match="runs in 4bit only, got 'float16'"):
        load(four, "torch", None, "float16")
    with pytest.raises(BadInputError, match="quantised already"):
        quantising.quantise(four, quantising.FITTED, tmp_path / "again")


def test_a_scheme_names_its_folder_which_is_found_by_that_name(
    tiny: ModelFolder, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEMMA_BENCH_HOME", str(tmp_path))
    assert tuple(quantising.SCHEMES) == SCHEME_NAMES
    made = [quantising.quantise(tiny, scheme) for scheme in quantising.SCHEMES.values()]
    assert [locate(f"tiny-{name}") for name in quantising.SCHEMES] == made
    assert len({folder.sha256 for folder in made}) == len(made), "no scheme replaces another's folder"


@pytest.fixture(scope="module", params=[(64, 32, 4), (262, 64, 8), (4096, 64, 4), (1024, 32, 8)], ids=str)
def packed(request: Any) -> Packed:
    rows, group, bits = request.param
    weights = torch.randn(rows, 640, generator=torch.Generator().manual_seed(rows))
    rounded = round_fitted(weights, bits, group)
    return Packed(pack(rounded.codes, bits), rounded.scales, rounded.biases, bits)


def inputs_of(count: int) -> torch.Tensor:
    return torch.randn(count, 640, generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize(("kernel", "allowed"), [(Int4Linear, 0.01), (CodedLinear, 0.001)])
@pytest.mark.parametrize("inputs", [1, 3, 37])
def test_a_product_is_that_with_the_rows_that_the_codes_stand_for(
    packed: Packed, kernel: Any, allowed: float, inputs: int
) -> None:
    """bfloat16 keeps three digits; 16 bits of the largest input keep four of the result."""
    right = inputs_of(inputs) @ packed.rows(torch.arange(len(packed.words))).T
    off = (kernel(packed)(inputs_of(inputs)) - right).norm() / right.norm()
    assert 0 < off < allowed


def test_an_input_of_zeros_gives_zeros(packed: Packed) -> None:
    assert torch.equal(CodedLinear(packed)(torch.zeros(2, 640)), torch.zeros(2, len(packed.words)))


def test_neither_threads_nor_neighbours_change_a_bit_of_a_product(packed: Packed) -> None:
    product, x = CodedLinear(packed), inputs_of(6)
    threads, results = torch.get_num_threads(), []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        results.append(product(x))
    torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_without_a_compiler_torchs_own_kernel_serves(
    packed: Packed, quantised: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(linear(packed), CodedLinear)
    ours = load(quantised, "torch")
    monkeypatch.setattr(product.KERNELS, "load", lambda: None)
    assert isinstance(linear(packed), Int4Linear)
    found = agreement(ours, load(quantised, "torch"), TOKENS)
    assert found.kl_nats.max() < 0.05


def test_a_step_in_one_call_is_the_decoders_own(quantised: ModelFolder) -> None:
    """Only attention differs, which the decoder does in bfloat16. The window is passed, and the first room doubled."""
    short, long = load(quantised, "torch").model, load(quantised, "torch").model
    assert short.step is not None
    long.step = None
    caches, off = [RingCache(TINY), RingCache(TINY)], []
    for model, cache in zip((short, long), caches, strict=True):
        model.read(torch.tensor([(TOKENS * 17)[:500]]), cache, None, last_only=True)
    for token in TOKENS:
        ids, pairs = torch.tensor([[token]]), zip((short, long), caches, strict=True)
        one, other = (model.read(ids, cache, None, last_only=True) for model, cache in pairs)
        off.append(float((one - other).norm() / other.norm()))
    assert sum(off) / len(off) < 0.02
    assert max(off) < 0.1
    for one, other in zip(*(cache.rooms for cache in caches), strict=True):
        assert one.shape == other.shape
        assert (one.float() - other.float()).norm() < 0.05 * other.float().norm()
