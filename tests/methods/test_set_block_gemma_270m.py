"""Set block decoding across the real model's window of 512."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import DynamicCache

from gemma_bench.measure.known_text import known_tokens
from gemma_bench.methods.block_samplers import FixedCount
from gemma_bench.methods.set_block_decoding import SetBlock, decode
from gemma_bench.methods.set_block_passes import passes_of
from gemma_bench.methods.set_block_trace import Answer, answers
from gemma_bench.models.backend import Backend
from gemma_bench.models.catalog import find
from gemma_bench.models.folder import ModelFolder
from gemma_bench.models.loading import load
from gemma_bench.models.tiny import random_folder


def test_the_cache_is_exact_across_the_window(gemma_270m: ModelFolder) -> None:
    """In torch: MLX's CPU build needs two minutes for the same; below it reads two layers of that shape."""
    backend = load(replace(gemma_270m, mask_token=4), "torch", "cpu", "float32")
    prompt = known_tokens(backend.tokenizer, 505)
    passes = passes_of(backend)
    cache = passes.new_cache(np.zeros(1, dtype=int), 560)
    written = answers(decode(passes, [prompt], 20, SetBlock(8, FixedCount(4)), cache=cache))[0]
    assert cache.kept_tokens == 505 + 16
    plain = DynamicCache()
    tokens = [*prompt, *written.tokens][: cache.kept_tokens]
    backend.logits([tokens], cache=plain, last_only=True)
    for ours, layer in zip(passes.kept(cache), plain.layers, strict=True):
        for kind, kept in enumerate((layer.keys, layer.values)):
            there = backend.numpy(kept)[:, :, : len(tokens)]
            assert np.abs(ours[kind] - there).max() < 1e-5 * np.abs(there).max()


@pytest.fixture(scope="module")
def two_layers(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    """The real model's shape and window with random weights: a local layer, a global one, a vocabulary of bytes."""
    fewer = {"num_hidden_layers": 2, "sliding_window_pattern": 2, "vocab_size": 262}
    folder = tmp_path_factory.mktemp("models") / "two layers"
    return random_folder(folder, find("270m").model_copy(update=fewer), mask_token=3)


def written_across(backend: Backend, prompt: list[int]) -> tuple[Answer, Any]:
    """Write 40 tokens in blocks that begin before the window's end and end behind it."""
    passes = passes_of(backend)
    cache = passes.new_cache(np.zeros(1, dtype=int), len(prompt) + 40)
    return answers(decode(passes, [prompt], 40, SetBlock(8, FixedCount(3)), cache=cache))[0], cache


def test_both_libraries_cross_the_window_alike_and_their_cache_is_exact(two_layers: ModelFolder) -> None:
    prompt = np.random.default_rng(0).integers(6, 262, 493).tolist()
    found = {}
    for library in ("torch", "mlx"):
        backend = load(two_layers, library, "cpu", "float32")
        assert backend.size.sliding_window == 512
        written, cache = written_across(backend, prompt)
        assert cache.kept_tokens == 493 + 32 > 512
        tokens = [*prompt, *written.tokens][: cache.kept_tokens]
        plain: Any = DynamicCache() if library == "torch" else backend.new_cache()
        backend.logits([tokens], cache=plain)
        for ours, layer in zip(passes_of(backend).kept(cache), getattr(plain, "layers", plain), strict=True):
            for kind, kept in enumerate((layer.keys, layer.values)):
                assert np.abs(ours[kind] - backend.numpy(kept)[:, :, : len(tokens)]).max() < 1e-4
        found[library] = written
    assert found["torch"] == found["mlx"]
    assert len(set(found["mlx"].tokens)) > 10, "control: not one token over and over"


def test_a_window_one_shorter_writes_something_else(two_layers: ModelFolder, tmp_path: Path) -> None:
    """The control: the window's edge is within reach of what was written."""
    prompt = np.random.default_rng(0).integers(6, 262, 493).tolist()
    other = two_layers.size.model_copy(update={"sliding_window": 500})
    narrow = random_folder(tmp_path / "narrow", other, mask_token=3)
    wide, less = (load(folder, "torch", "cpu", "float32") for folder in (two_layers, narrow))
    assert written_across(wide, prompt)[0] != written_across(less, prompt)[0]
