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
    """Return bf16 over 4-bit time of one product, measured in turn, or the share of right rows where some are wrong.

    Neither may read faster than memory does.
    """
    from gemma_bench.core.errors import InvalidRunError
    from gemma_bench.measure.bandwidth import read_bandwidth_bytes_per_s
    from gemma_bench.measure.matvec import SHAPE_12B, right_rows_share, time_products

    right = right_rows_share((1024, SHAPE_12B[1]))
    if right < 1:
        return Measured.exact(right, "of the rows right"), "a product that leaves rows out is no product"
    found, bandwidth = time_products(rounds=24), read_bandwidth_bytes_per_s()
    rates = {"bf16": found.bf16_bytes_per_s, "4-bit": found.int4_bytes_per_s}
    reason = ", ".join(f"{name} reads {rate / 1e9:.1f} GB/s" for name, rate in rates.items())
    if max(rates.values()) > 1.1 * bandwidth:
        raise InvalidRunError("faster than memory", f"{reason}, memory {bandwidth / 1e9:.1f} GB/s")
    ratio = found.comparison.ratio
    reason += (
        f" of {bandwidth / 1e9:.1f} GB/s; MLX's own kernels here: {_mlx_products_ratio():.2g} × the time of 4 bits"
    )
    return Measured.within(ratio, "× the time of 4 bits", found.comparison.a), reason


def _mlx_products_ratio():
    from gemma_bench.measure.comparison import compare
    from gemma_bench.measure.matvec_mlx import mlx_products

    plain, packed = mlx_products(copies_bytes=1)
    return compare(plain.seconds, packed.seconds, rounds=2).ratio.value


@pytest.fixture
def peaks(gemma, tiny, tmp_path):
    """Return how far predicted and measured peaks are apart, in percent, for each model and library; and footprints.

    MLX works ahead as far as the machine's load lets it, and peaks less on a busy one: of five readings the largest counts.
    """
    from gemma_bench.measure import memory, summary
    from gemma_bench.measure.throughput import Workload
    from gemma_bench.models.convert_mlx import convert
    from gemma_bench.models.loading import load

    off, footprints, workload = {}, [], Workload(prompt_tokens=64, new_tokens=16)
    for folder, library, precision, readings in (
        (tiny, "torch", None, 1),
        (tiny, "mlx", None, 5),
        (convert(tiny, 4, 64, tmp_path / "tiny-4bit"), "torch", None, 1),
        (gemma, "torch", "bfloat16", 1),
    ):
        meter = memory.MemoryMeter(memory.allocator_of(library, "cpu"))
        with meter.phase("load"):
            backend = load(folder, library, "cpu", precision)
        found = 0
        for _ in range(readings):
            memory.weigh(backend, workload, meter)
            found = max(found, *(phase.live_bytes for phase in meter.phases.values()))
        name = f"{folder.size.name} {library} {backend.precision}"
        off[name] = 100 * abs(summary.prediction(backend, workload).bytes / found - 1)
        process = max(phase.footprint_bytes for phase in meter.phases.values())
        footprints.append(f"{name} {found / 1e6:,.1f} of {process / 1e6:,.0f} MB of the process")
    told = ", ".join(f"{name} {percent:.1f} % off" for name, percent in off.items())
    return off, f"{told}; live tensors: {', '.join(footprints)}"


@pytest.fixture
def ceiling_shares(gemma, tiny, tmp_path):
    """Return every decode rate that can be measured here in seconds, as a share of the bandwidth's ceiling.

    The ceiling counts what of the buffer was in memory: pages that nobody wrote are read without reading anything. A
    rate of wrong tokens is none of this model; it is taken for one beyond the ceiling.
    """
    from gemma_bench.measure.bandwidth import read_bandwidth_bytes_per_s, resident_share
    from gemma_bench.measure.correctness import check_output
    from gemma_bench.measure.cost import bandwidth_share_percent
    from gemma_bench.measure.throughput import Workload, run_trial
    from gemma_bench.models.backend import subject
    from gemma_bench.models.convert_mlx import convert
    from gemma_bench.models.loading import load

    bandwidth, shares = read_bandwidth_bytes_per_s() * resident_share(), {}
    four_bits, workload = convert(tiny, 4, 64, tmp_path / "tiny-4bit"), Workload(8, 16)
    whole = [(tiny, library, precision) for library in ("torch", "mlx") for precision in ("float32", "bfloat16")]
    quantised = [(four_bits, library, None) for library in ("torch", "mlx")]
    for folder, library, precision in [*whole, *quantised, (gemma, "torch", "bfloat16")]:
        backend = load(folder, library, "cpu", precision)
        trials = [run_trial(backend, workload) for _ in range(2)]
        rate, name = max(trial.decode_tokens_per_s for trial in trials), f"{folder.size.name} {library}"
        share = bandwidth_share_percent(backend.weight_bytes(), rate, bandwidth)
        is_right = all(check_output(backend, workload, trial.rows).is_correct for trial in trials)
        shares[f"{name} {backend.precision}" + ("" if is_right else ", wrong tokens")] = share + 100 * (not is_right)
    return shares, subject(backend)


@pytest.fixture
def steadiness(request, tiny):
    """Return the time of the last of many tokens over that of the last of 18, in turn; fewer in a fault run.

    One thread: two wait for each other in a model as small as this, and processor time counts their waiting.
    """
    from gemma_bench.measure.steadiness import compare_at_equal_depth
    from gemma_bench.models.backend import subject
    from gemma_bench.models.loading import load
    from gemma_bench.training.stack.stepper import one_thread

    backend = load(tiny, "torch", "cpu")
    long, rounds = (160, 8) if request.config.option.faults else (320, 6)
    with one_thread():
        found = compare_at_equal_depth(backend, 18, long, rounds)
    reason = f"tiny model, one thread's processor time; this machine tells {found.smallest_effect_percent:.1f} % from nothing"
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
