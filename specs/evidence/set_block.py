"""Evidence of chapter 6: how many forward passes a block can save, and what they cost."""

import pytest


@pytest.fixture
def sampler_disagreements():
    """Return in how many of 4,000 random blocks the entropy-bounded sampler is not the definition, tried by length."""
    import numpy as np

    from gemma_bench.methods.block_samplers import EntropyBounded

    random, off = np.random.default_rng(0), 0
    for _ in range(4000):
        found = random.exponential(random.choice([0.02, 0.3, 2.0]), random.integers(1, 17))
        gamma = random.choice([0.0, 0.1, 0.35, 1.5, np.inf])
        ranked = np.sort(found)
        wanted = max(n for n in range(1, len(found) + 1) if ranked[: n - 1].sum() <= gamma)
        fixed = EntropyBounded(gamma).fix(found, np.exp(-found))
        off += not np.array_equal(np.sort(found[fixed]), ranked[:wanted])
    return off, "blocks of 1 to 16 tokens at γ of 0, 0.1, 0.35, 1.5 and ∞ nats, entropies all positive"


@pytest.fixture
def prefix_changes(tiny):
    """Return the largest change of a next-token logit that a block behind a text of 20 tokens makes, across the window."""
    import numpy as np

    from gemma_bench.core.errors import InvalidRunError

    text, changes, control = np.arange(20, 40)[None], {}, []
    for backend, passes in _both_libraries(tiny):
        plain = backend.numpy(backend.logits(text.tolist()))
        for block in (1, 4, 16):
            masks = np.full((1, block), passes.mask_token)
            read = passes.logits(passes.new_cache(np.zeros(1, dtype=int), 40), text, masks)
            changes[f"{backend.name}, block of {block}"] = float(np.abs(read[:, : text.size] - plain).max())
            control.append(float(np.abs(read[:, text.size :] - plain[:, :1]).max()))
    if not min(control) > 0.1:
        raise InvalidRunError("control", "the block's own logits are those of the text's first token")
    return changes


@pytest.fixture
def cache_changes(tiny):
    """Return the largest difference between a cache after blocks and a plain causal prefill's, by library and block."""
    import numpy as np
    from transformers import DynamicCache

    from gemma_bench.methods.block_samplers import FixedCount
    from gemma_bench.methods.set_block_decoding import SetBlock, decode
    from gemma_bench.methods.set_block_trace import answers

    prompt, changes = list(range(20, 25)), {}
    for backend, passes in _both_libraries(tiny):
        for block in (3, 8, 16):
            cache = passes.new_cache(np.zeros(1, dtype=int), 64)
            written = answers(decode(passes, [prompt], 40, SetBlock(block, FixedCount(2)), cache=cache))[0]
            tokens = [*prompt, *written.tokens][: cache.kept_tokens]
            plain = DynamicCache() if backend.name == "torch" else backend.new_cache()
            backend.logits([tokens], cache=plain)
            layers = getattr(plain, "layers", plain)  # MLX's cache is the list of its layers
            changes[f"{backend.name}, block of {block}"] = max(
                float(np.abs(ours[kind] - backend.numpy(kept)[:, :, : len(tokens)]).max())
                for ours, layer in zip(passes.kept(cache), layers, strict=True)
                for kind, kept in enumerate((layer.keys, layer.values))
            )
    return changes


def _both_libraries(folder):
    """Load a folder in torch and in MLX, its `<unk>` standing for hidden tokens, which no text contains."""
    from dataclasses import replace

    from gemma_bench.methods.set_block_passes import passes_of
    from gemma_bench.models.loading import load

    for library in ("torch", "mlx"):
        backend = load(replace(folder, mask_token=3), library, "cpu", "float32")
        yield backend, passes_of(backend)


@pytest.fixture
def time_turned(tiny, request):
    """Return how much of the passes saved is time saved in torch, in percent, with MLX beside it."""
    from gemma_bench.claims import Measured
    from gemma_bench.experiments.set_block_time import FIXTURE, measure

    config = FIXTURE.model_copy(update={"rounds": 3} if request.config.option.faults else {})
    torch, mlx = (measure(config, tiny, library) for library in ("torch", "mlx"))
    told = [
        f"{found.backend} {found.passes_saving_ratio:.1f}× fewer passes, {found.speedup_ratio:.2f}× less time "
        f"({found.predicted_speedup_ratio:.2f}× predicted)"
        for found in (torch, mlx)
    ]
    return Measured(
        value=torch.turned_percent,
        low=torch.turned_low_percent,
        high=torch.turned_high_percent,
        unit="% of the passes saved",
        samples=torch.samples,
    ), "; ".join(told)
