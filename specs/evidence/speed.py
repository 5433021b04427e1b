"""Evidence of chapter 2: what is fast and how much memory it takes. In a fault run the tiny model stands for the real one."""

import pytest

from gemma_bench.claims import Measured


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
    """Return how far predicted and measured peaks are apart, in percent, for each model and library.

    MLX works ahead as far as the machine's load lets it, and peaks less on a busy one: of five readings the largest counts.
    """
    from gemma_bench.measure import memory, summary
    from gemma_bench.measure.throughput import Workload
    from gemma_bench.models.loading import load

    off, workload = {}, Workload(prompt_tokens=64, new_tokens=16)
    for folder, library, precision, readings in (
        (tiny, "torch", None, 1),
        (tiny, "mlx", None, 5),
        (gemma, "torch", "bfloat16", 1),
    ):
        meter = memory.MemoryMeter(memory.allocator_of(library, "cpu"))
        with meter.phase("load"):
            backend = load(folder, library, "cpu", precision)
        found = 0
        for _ in range(readings):
            memory.weigh(backend, workload, meter)
            found = max(found, *(phase.live_bytes for phase in meter.phases.values()))
        off[f"{folder.size.name} {library}"] = 100 * abs(summary.prediction(backend, workload).bytes / found - 1)
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
def steadiness(request, tiny):
    """Return the time of the last of many tokens over that of the last of 18, in turn; fewer in a fault run."""
    from gemma_bench.measure.steadiness import compare_at_equal_depth
    from gemma_bench.models.backend import subject
    from gemma_bench.models.loading import load

    backend = load(tiny, "torch", "cpu")
    long, rounds = (160, 8) if request.config.option.faults else (320, 6)
    found = compare_at_equal_depth(backend, 18, long, rounds)
    reason = f"tiny model, processor time; this machine tells {found.smallest_effect_percent:.1f} % from nothing"
    return Measured.within(found.ratio, "× the time", found.a), reason, subject(backend)


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
    from published import speed

    if request.config.option.faults:
        return speed.study_table()
    from gemma_bench.experiments.study_table import measure

    return speed.StudyTable(measure())


@pytest.fixture
def beside_llama_cpp(request, recorded):
    """Return the rate of 8 bits over llama.cpp's, round by round, or the ratio of perplexities where that is worse.

    Perplexities are compared token by token: on 1,024 tokens rounding alone, of activations even, moves one by 1 %.
    """
    from math import exp

    from evidence.known_answers import faster_and_surer

    from gemma_bench.core.errors import InvalidRunError
    from gemma_bench.core.intervals import Interval, mean_interval
    from gemma_bench.experiments import speed_table
    from gemma_bench.measure.validity import require_valid

    def newest(row):
        def is_meant(record):
            return record.row == row and record.is_complete

        return recorded("speed_table", speed_table.TableRecord, version=speed_table.VERSION, where=is_meant)

    ours, theirs = newest("270m-all8 torch cpu"), newest("270m llama.cpp cpu Q4_K_M")
    if request.config.option.faults:
        ours = faster_and_surer(ours, than=theirs)
    if (ours.machine_id, ours.commit) != (theirs.machine_id, theirs.commit):
        raise InvalidRunError("not one run", f"{ours.row} and {theirs.row} were not measured in turn")
    for record in (ours, theirs):
        require_valid(record.broken_rules)
    faster = speed_table.ratio(ours.samples, theirs.samples)
    nats = [theirs - ours for ours, theirs in zip(ours.token_nats, theirs.token_nats, strict=True)]
    surer = Interval(*map(exp, mean_interval(nats)))
    told = (f"{one.decode_tokens_per_s:.1f} tok/s at a perplexity of {one.perplexity:.2f}" for one in (ours, theirs))
    reason = "ours {}, llama.cpp {}".format(*told)
    if surer.low < faster.low:
        return Measured.within(surer, "× our perplexity"), reason
    return Measured.within(faster, "× llama.cpp's rate", ours.samples), reason
