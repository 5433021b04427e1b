"""Evidence that several specs share. In a fault run the tiny model stands for the real one."""

from pathlib import Path

import pytest

from gemma_bench.claims import Measured


def pytest_collection_modifyitems(items):
    """Mark the specs that need real weights, so that `-m "not weights"` leaves them out."""
    for item in items:
        if {"gemma", "real_gemma"} & set(item.fixturenames):
            item.add_marker("weights")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Return a folder with the tiny Gemma 3: seeded random weights, both kinds of layers, a window of 8 tokens."""
    from gemma_bench.models.catalog import TINY
    from gemma_bench.models.tiny import random_folder

    return random_folder(tmp_path_factory.mktemp("models") / "tiny", TINY)


@pytest.fixture(scope="session")
def real_gemma():
    """Return the folder of the real Gemma 3 270M."""
    from gemma_bench.models.weights import locate

    return locate("270m")


@pytest.fixture(scope="session")
def gemma(request):
    """Return the folder of the real Gemma 3 270M, or the tiny one's in a fault run."""
    return request.getfixturevalue("tiny" if request.config.option.faults else "real_gemma")


@pytest.fixture(scope="session")
def text():
    """Return a text that every machine has: the beginning of this project's own licence."""
    return (Path(__file__).parents[1] / "LICENSE").read_text(encoding="utf-8").strip()[:2000]


@pytest.fixture
def local_influence(tmp_path):
    """Return the largest change of a logit beyond the window of a local layer, and what was seen inside it.

    One layer is one window: a stack of local layers passes a token on, window by window.
    """
    from gemma_bench.core.errors import InvalidRunError
    from gemma_bench.measure.influence import influence
    from gemma_bench.models.catalog import TINY
    from gemma_bench.models.loading import load
    from gemma_bench.models.tiny import random_folder

    window, position, tokens = TINY.sliding_window, 3, range(20, 60)
    local, everywhere = (
        influence(load(random_folder(tmp_path / name, TINY.model_copy(update=shape))), tokens, position)
        for name, shape in (
            ("local", {"num_hidden_layers": 1}),
            ("global", {"num_hidden_layers": 1, "sliding_window_pattern": 1}),
        )
    )
    last, beyond = local[position + window - 1], local[position + window :].max()
    if not (last > 0 and everywhere[position:].min() > 0):
        raise InvalidRunError("control", "the token has no influence inside the window or through a global layer")
    return (
        beyond,
        f"the last token inside moves logits by {last:.2g}, a global layer by {everywhere[-1]:.2g} at the end",
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


@pytest.fixture
def quantised_bits(tiny, tmp_path):
    """Return the bits per weight of the matrix that is farthest from 4.5, in a really quantised model."""
    from gemma_bench.measure.storage import matrix_bits
    from gemma_bench.models import convert_mlx

    bits = matrix_bits(convert_mlx.convert(tiny, 4, 64, tmp_path / "tiny-4bit"))
    return max(
        bits.values(), key=lambda found: abs(found - 4.5)
    ), f"{len(bits)} matrices of the tiny model, quantised by MLX"


@pytest.fixture
def products():
    """Return bf16 over 4-bit time of one product, measured in turn; neither may read faster than memory does."""
    from gemma_bench.core.errors import InvalidRunError
    from gemma_bench.measure.bandwidth import read_bandwidth_bytes_per_s
    from gemma_bench.measure.matvec import time_products

    found, bandwidth = time_products(rounds=8), read_bandwidth_bytes_per_s()
    rates = {"bf16": found.bf16_bytes_per_s, "4-bit": found.int4_bytes_per_s}
    reason = ", ".join(f"{name} reads {rate / 1e9:.1f} GB/s" for name, rate in rates.items())
    if max(rates.values()) > 1.1 * bandwidth:
        raise InvalidRunError("faster than memory", f"{reason}, memory {bandwidth / 1e9:.1f} GB/s")
    ratio = found.comparison.ratio
    return Measured.within(ratio, "× the time of 4 bits", found.comparison.a), f"{reason} of {bandwidth / 1e9:.1f} GB/s"


@pytest.fixture
def peaks(gemma, tiny):
    """Return how far predicted and measured peaks are apart, in percent, for each model and library."""
    from gemma_bench.experiments.speed import Config, measure

    off = {}
    for folder, library, precision in ((tiny, "torch", None), (tiny, "mlx", None), (gemma, "torch", "bfloat16")):
        what = {"model": str(folder.path), "backend": library, "dtype": precision, "device": "cpu"}
        record = measure(Config(**what, prompt_tokens=64, new_tokens=16, trials=1))
        found = max(record.load_live_bytes, record.prefill_live_bytes, record.decode_live_bytes)
        off[f"{folder.size.name} {library}"] = 100 * abs(record.predicted_peak_bytes / found - 1)
    return off, ", ".join(f"{name} {percent:.1f} % off" for name, percent in off.items())


@pytest.fixture
def ceiling_shares(gemma, tiny):
    """Return every decode rate that can be measured here in seconds, as a share of the bandwidth's ceiling."""
    from gemma_bench.measure.bandwidth import read_bandwidth_bytes_per_s
    from gemma_bench.measure.cost import bandwidth_share_percent
    from gemma_bench.measure.throughput import Workload, run_trial
    from gemma_bench.models.backend import subject
    from gemma_bench.models.loading import load

    bandwidth, shares = read_bandwidth_bytes_per_s(), {}
    cases = [(tiny, "torch", "float32"), (tiny, "mlx", "float32"), (gemma, "torch", "bfloat16")]
    for folder, library, precision in cases:
        backend = load(folder, library, "cpu", precision)
        rate = max(run_trial(backend, Workload(8, 16)).decode_tokens_per_s for _ in range(2))
        share = bandwidth_share_percent(backend.weight_bytes(), rate, bandwidth)
        shares[f"{folder.size.name} {library} {precision}"] = share
    return shares, subject(backend)


@pytest.fixture
def meters(tiny):
    """Return how far our meter and mlx_lm's are apart, in percent: the median of five generations, each read by both."""
    from statistics import median

    from gemma_bench.measure.throughput_mlx import both_meters
    from gemma_bench.models.backend import subject
    from gemma_bench.models.loading import load

    backend = load(tiny, "mlx", "cpu")
    both_meters(backend, [2, 40, 41], 32)
    read = [both_meters(backend, [2, 40, 41], 32) for _ in range(5)]
    off = [100 * abs(ours / theirs - 1) for ours, theirs in read]
    return median(off), f"32 tokens of the tiny model, from {min(off):.2f} to {max(off):.2f} %", subject(backend)


@pytest.fixture(scope="session")
def study_table(request):
    """Return the study's table, measured where its machine is; in a fault run as the study states it."""
    import published

    if request.config.option.faults:
        return published.study_table()
    from gemma_bench.experiments.study_table import measure

    return published.StudyTable(*measure())
