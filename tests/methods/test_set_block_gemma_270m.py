"""Set block decoding across the real model's window of 512."""

from dataclasses import replace

import numpy as np
from transformers import DynamicCache

from gemma_bench.measure.known_text import known_tokens
from gemma_bench.methods.block_samplers import FixedCount
from gemma_bench.methods.set_block_decoding import SetBlock, decode
from gemma_bench.methods.set_block_passes import passes_of
from gemma_bench.methods.set_block_trace import answers
from gemma_bench.models.folder import ModelFolder
from gemma_bench.models.loading import load


def test_the_cache_is_exact_across_the_window(gemma_270m: ModelFolder) -> None:
    """In torch: MLX's CPU build needs two minutes for the same and was found to agree by hand."""
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
