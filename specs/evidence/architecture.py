"""Evidence of chapter 1: what the models are. In a fault run the tiny model stands for the real one."""

import pytest

from gemma_bench.claims import Measured


@pytest.fixture
def local_influence(tmp_path):
    """Return the largest change of a logit beyond the window of a local layer, and what was seen inside it.

    One layer is one window: a stack of local layers passes a token on, window by window.
    """
    from gemma_bench.core.errors import InvalidRunError
    from gemma_bench.measure.influence import influence
    from gemma_bench.models.backend import subject
    from gemma_bench.models.catalog import TINY
    from gemma_bench.models.loading import load
    from gemma_bench.models.tiny import random_folder

    window, position, tokens = TINY.sliding_window, 3, range(20, 60)
    windowed, unbounded = (
        load(random_folder(tmp_path / name, TINY.model_copy(update={"num_hidden_layers": 1, **shape})))
        for name, shape in (("local", {}), ("global", {"sliding_window_pattern": 1}))
    )
    local, everywhere = (influence(backend, tokens, position) for backend in (windowed, unbounded))
    last, beyond = local[position + window - 1], local[position + window :].max()
    if not (last > 0 and everywhere[position:].min() > 0):
        raise InvalidRunError("control", "the token has no influence inside the window or through a global layer")
    return (
        beyond,
        f"the last token inside moves logits by {last:.2g}, a global layer by {everywhere[-1]:.2g} at the end",
        subject(windowed),
    )


@pytest.fixture
def cache_differences(gemma, tiny):
    """Return every difference in bytes between a cache and the formula, over lengths, models and libraries."""
    from gemma_bench.measure.storage import cache_differences
    from gemma_bench.models.backend import subject
    from gemma_bench.models.loading import load

    found, seen = [], []
    for folder, precision, tokens in ((tiny, "float32", 20), (gemma, "bfloat16", 16)):
        for library, dropped in (("torch", 1), ("mlx", 0)):
            backend = load(folder, library, "cpu", precision)
            off = cache_differences(backend, tokens, folder.size.sliding_window - dropped)
            found += off
            seen.append(f"{library} {folder.size.name}, 1 to {tokens} tokens: {max(off, key=abs)} off")
    return found, "; ".join(seen), subject(backend)


@pytest.fixture
def backends_agree(gemma, tiny, text):
    """Return how far torch and MLX are apart, as a multiple of what is allowed: exact on tiny, rounded on the real one.

    In float32 nothing but the order of sums differs: log-probabilities within 1e-4. In bfloat16 every layer rounds: a
    median KL of 0.004 nats per token.
    """
    from gemma_bench.core.intervals import median_interval
    from gemma_bench.measure.agreement import agreement
    from gemma_bench.models.backend import subject
    from gemma_bench.models.loading import load

    def compare(folder, precision, count):
        ours, theirs = (load(folder, library, "cpu", precision) for library in ("torch", "mlx"))
        return agreement(ours, theirs, ours.tokenizer(text).input_ids[:count]), subject(ours)

    exact, _ = compare(tiny, "float32", 64)
    found, what = compare(gemma, "bfloat16", 16)
    of_real = [kl / 0.004 for kl in found.kl_nats]
    real = Measured.within(median_interval(of_real), "× of what is allowed", of_real)
    small = Measured.exact(exact.largest_difference_nats / 1e-4, "× of what is allowed")
    reason = (
        f"tiny in float32: log-probabilities within {exact.largest_difference_nats:.1e} nats; real in bfloat16: median "
        f"KL {0.004 * real.value:.2g}, greedy choices agree at {found.same_choice.mean():.0%} of 16 tokens"
    )
    return max(real, small, key=lambda part: part.high), reason, what


@pytest.fixture
def residuals(real_gemma, text):
    """Return the largest activation after each layer, and what float16 makes of the same text."""
    from gemma_bench.measure.activations import FLOAT16_LARGEST, has_finite_logits, residual_peaks
    from gemma_bench.models.backend import subject
    from gemma_bench.models.loading import load

    backend = load(real_gemma, "torch", "cpu", "float32")
    tokens = backend.tokenizer(text).input_ids[:32]
    peaks = residual_peaks(backend, tokens)
    over = [layer for layer, peak in enumerate(peaks) if peak > FLOAT16_LARGEST]
    outcome = "finite" if has_finite_logits(load(real_gemma, "torch", "cpu", "float16"), tokens) else "not numbers"
    return peaks, f"layers {over} pass it; in float16 the logits are {outcome}", subject(backend)
