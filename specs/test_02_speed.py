"""Chapter 2, speed: can 4-bit be faster than 16-bit, and is 75 tok/s possible."""

from gemma_bench.claims import Measured, at_least, at_most, between, claim, exactly, within_percent

from sources import APPLE_M3_ULTRA, GEMMA3_CODE, LLAMA_CPP, MLX_LM, MLX_QUANTIZE, ROOFLINE, SPEED, STUDY


@claim(
    id="SPEED-1",
    version=1,
    headline=SPEED,
    kind="arithmetic",
    source=STUDY,
    expect="holds",
    faults=["gib_taken_for_gb"],
)
def test_bandwidth_of_75_tokens(judge):
    """For 12b, 75 tok/s needs 61–62 % of the M3 Ultra's 819 GB/s, so it is possible."""
    from gemma_bench.core.known_machines import M3_ULTRA
    from gemma_bench.measure import cost
    from gemma_bench.models.catalog import SIZES

    from published import listed
    from published.speed import STUDY_WEIGHTS_BYTES

    sizes = SIZES["12b"].weight_bytes(4, 64), STUDY_WEIGHTS_BYTES
    low, high = (cost.bandwidth_share_percent(size, 75, M3_ULTRA.bandwidth_bytes_per_s) for size in sizes)
    ceilings = {
        name: round(cost.ceiling_tokens_per_s(size.weight_bytes(4, 64), M3_ULTRA.bandwidth_bytes_per_s))
        for name, size in SIZES.items()
    }
    measured = Measured(value=high, low=low, high=high, unit="% of the bandwidth")
    reason = f"from computed and from stated weight bytes; ceilings in tok/s: {listed(ceilings)}"
    judge(measured, between(60.5, 62.5), reason)


@claim(
    id="SPEED-2",
    version=1,
    headline=SPEED,
    kind="arithmetic",
    source=STUDY,
    expect="holds",
    faults=["sixteen_bits_at_four_bytes"],
)
def test_bandwidth_of_16_bits(judge):
    """For 12b at 16 bits, 28 tok/s needs 80–81 % of the M3 Ultra's bandwidth and 15 tok/s 43 %, each within 1 point."""
    from gemma_bench.core.known_machines import M3_ULTRA
    from gemma_bench.measure import cost
    from gemma_bench.models.catalog import SIZES

    weights = SIZES["12b"].weight_bytes(16)
    shares = [cost.bandwidth_share_percent(weights, rate, M3_ULTRA.bandwidth_bytes_per_s) for rate in (28, 15)]
    off = max(abs(shares[0] - 80.5), abs(shares[1] - 43))
    judge(Measured.exact(off, "points off"), at_most(1), f"{shares[0]:.1f} % and {shares[1]:.1f} %")


@claim(
    id="SPEED-3",
    version=1,
    headline=SPEED,
    kind="arithmetic",
    source=STUDY,
    expect="refuted",
    faults=["cache_of_8_gb"],
)
def test_weights_in_cache(judge):
    """6.8 GB of weights fit entirely in the GPU's cache."""
    from gemma_bench.core import known_machines

    from published.speed import STUDY_WEIGHTS_BYTES

    ratio = STUDY_WEIGHTS_BYTES / known_machines.M3_ULTRA.cache_bytes
    reason = "the system-level cache is about 96 MB (inferred from two M3 Max dies of 48 MB)"
    judge(Measured.exact(ratio, "× the cache"), at_most(1), reason)


@claim(
    id="SPEED-4",
    version=1,
    headline=SPEED,
    kind="identity",
    source=MLX_QUANTIZE,
    expect="holds",
    faults=["group_of_32", "biases_left_out"],
)
def test_bits_per_weight(judge, quantised_bits):
    """4-bit with groups of 64 costs exactly 4.5 bits per quantised weight, in every matrix."""
    from gemma_bench.models.catalog import SIZES

    worst, reason = quantised_bits
    reason += f"; 12b takes {SIZES['12b'].weight_bytes(4, 64) / 1e9:.2f} GB"
    judge(Measured.exact(worst, "bits per weight"), exactly(4.5), reason)


@claim(
    id="SPEED-5",
    version=1,
    headline=SPEED,
    kind="arithmetic",
    source=STUDY,
    expect="holds",
    faults=["eight_bits_taken_for_four"],
)
def test_gain_of_4_bits(judge):
    """The 2.7× reported for 4-bit over 16-bit decoding is below the most that bandwidth allows, 16/4.5 = 3.56×."""
    from gemma_bench.models import catalog

    from published.speed import STUDY_GAIN_OF_4_BITS

    most = 16 / catalog.bits_per_weight(4, 64)
    judge(Measured.exact(STUDY_GAIN_OF_4_BITS, "× 16-bit"), at_most(most), "4-bit costs 4.5 bits, its scales included")


@claim(
    id="SPEED-6",
    version=1,
    headline=SPEED,
    kind="measured",
    source=ROOFLINE,
    expect="holds",
    faults=["four_bits_without_its_kernel", "half_the_rows"],
)
def test_4_bit_product_is_faster(judge, products):
    """On this machine a 4-bit matrix–vector product at 12b's shape takes less time than a bf16 one, both within the bandwidth."""
    measured, reason = products
    judge(measured, at_least(1), reason)


@claim(
    id="SPEED-7",
    version=1,
    headline=SPEED,
    kind="measured",
    source=ROOFLINE,
    expect="holds",
    faults=["clock_in_microseconds", "clock_that_does_not_wait", "ceiling_of_unwritten_memory"],
)
def test_no_rate_beats_the_bandwidth(judge, ceiling_shares):
    """No measured decode rate beats weight bytes over the bandwidth measured on this machine in the same run."""
    shares, subject = ceiling_shares
    reason = ", ".join(f"{name} {share:.1f} %" for name, share in shares.items())
    judge(Measured.exact(max(shares.values()), "% of the ceiling"), at_most(100), reason, subject=subject)


@claim(
    id="SPEED-8",
    version=1,
    headline=SPEED,
    kind="measured",
    source=STUDY,
    expect="holds",
    faults=["text_decoded_anew_every_token"],
)
def test_rate_is_steady(judge, steadiness):
    """At fixture scale, the last of 320 written tokens take the time of the last of 18, the cache being as full, within 10 %."""
    measured, reason, subject = steadiness
    judge(measured, within_percent(1, 10), reason, subject=subject)


@claim(
    id="SPEED-24",
    version=1,
    headline=SPEED,
    kind="recorded",
    source=STUDY,
    expect="open",
    faults=["last_tokens_a_fifth_slower"],
    scale="study",
)
def test_rate_is_steady_at_270m(judge, recorded):
    """On 270m in bfloat16 in torch, the last of 512 written tokens take the time of the last of 18, the cache being as full, within 10 %."""
    from gemma_bench.experiments.steady_rate import VERSION, SteadyRecord
    from gemma_bench.measure.validity import require_valid

    found = recorded("steady_rate", SteadyRecord, version=VERSION, where=lambda record: record.scale == "study")
    require_valid(found.broken_rules)
    reason = f"processor time; the machine could tell {found.smallest_effect_percent:.1f} % from nothing"
    judge(Measured.within(found.ratio, "× the time", found.samples), within_percent(1, 10), reason)


@claim(
    id="SPEED-25",
    version=1,
    headline=SPEED,
    kind="recorded",
    source=LLAMA_CPP,
    expect="open",
    faults=["rows_taken_for_each_other"],
    scale="study",
)
def test_8_bits_match_llama_cpp(judge, beside_llama_cpp):
    """On a CPU at batch 1, torch with 8 bits everywhere decodes 270m no slower than llama.cpp with its Q4_K_M, at no higher perplexity."""
    measured, reason = beside_llama_cpp
    judge(measured, at_least(1), reason)


@claim(
    id="SPEED-9",
    version=1,
    headline=SPEED,
    kind="measured",
    source=MLX_LM,
    expect="holds",
    faults=["bias_left_in"],
)
def test_meters_agree(judge, meters):
    """Our meter and mlx_lm's own figure differ by at most 1 % on the same generation, once its N/(N−1) is taken out."""
    off_percent, reason, subject = meters
    judge(Measured.exact(off_percent, "% apart"), at_most(1), reason, subject=subject)


@claim(
    id="SPEED-10",
    version=1,
    headline=SPEED,
    kind="measured",
    source=GEMMA3_CODE,
    expect="holds",
    faults=["activations_forgotten"],
)
def test_peak_is_predicted(judge, peaks):
    """The predicted peak of live tensors in loading, reading and writing is within 5 % of the measured one, in torch and MLX."""
    off, reason = peaks
    judge(Measured.exact(max(off.values()), "% off"), at_most(5), reason)


@claim(
    id="SPEED-11",
    version=1,
    headline=SPEED,
    kind="hardware",
    source=STUDY,
    expect="open",
    faults=["throttled_to_half"],
)
def test_m3_ultra_4_bit(judge, study_table):
    """On the M3 Ultra, 12b in 4 bits decodes at least 75 tok/s in MLX."""
    judge(study_table.rate("mlx 4-bit"), at_least(75))


@claim(
    id="SPEED-12",
    version=1,
    headline=SPEED,
    kind="hardware",
    source=STUDY,
    expect="open",
    faults=["peak_with_the_allocator_s_cache"],
)
def test_m3_ultra_peak(judge, study_table):
    """On the M3 Ultra, the peak of live memory of 12b in 4 bits in MLX is 6.8 GB within 5 %."""
    judge(study_table.peak("mlx 4-bit"), within_percent(6.8, 5))


@claim(
    id="SPEED-13",
    version=1,
    headline=SPEED,
    kind="hardware",
    source=STUDY,
    expect="open",
    faults=["throttled_to_half"],
)
def test_m3_ultra_16_bit(judge, study_table):
    """On the M3 Ultra, 12b in 16 bits decodes 28 tok/s in MLX, within 5 %."""
    judge(study_table.rate("mlx 16-bit"), within_percent(28, 5))


@claim(
    id="SPEED-14",
    version=1,
    headline=SPEED,
    kind="hardware",
    source=STUDY,
    expect="open",
    faults=["throttled_to_half"],
)
def test_m3_ultra_mps(judge, study_table):
    """On the M3 Ultra, 12b in 16 bits decodes 15 tok/s in torch on MPS, within 5 %, with right output."""
    judge(study_table.rate("mps 16-bit"), within_percent(15, 5))


@claim(
    id="SPEED-15",
    version=1,
    headline=SPEED,
    kind="hardware",
    source=STUDY,
    expect="open",
    faults=["only_4_bit_throttled"],
)
def test_m3_ultra_gain_of_4_bits(judge, study_table):
    """On the M3 Ultra, 12b decodes 2.7× as fast in 4 bits as in 16, within 5 %."""
    judge(study_table.ratio("mlx 4-bit", "mlx 16-bit"), within_percent(2.7, 5))


@claim(
    id="SPEED-16",
    version=1,
    headline=SPEED,
    kind="hardware",
    source=STUDY,
    expect="open",
    faults=["only_mps_throttled"],
)
def test_m3_ultra_mlx_over_mps(judge, study_table):
    """On the M3 Ultra, 12b in 16 bits decodes 1.88× as fast in MLX as in torch on MPS, within 5 %."""
    reason = f"4-bit over MPS: {study_table.ratio('mlx 4-bit', 'mps 16-bit')}, claimed 5×"
    judge(study_table.ratio("mlx 16-bit", "mps 16-bit"), within_percent(1.88, 5), reason)


@claim(
    id="SPEED-17",
    version=1,
    headline=SPEED,
    kind="hardware",
    source=STUDY,
    expect="open",
    faults=["slower_with_length"],
)
def test_m3_ultra_is_steady(judge, study_table):
    """On the M3 Ultra, 12b in 4 bits decodes 512 tokens at the rate of 18, within 5 %."""
    judge(study_table.ratio("mlx 4-bit long", "mlx 4-bit short"), within_percent(1, 5))


@claim(
    id="SPEED-18",
    version=1,
    headline=SPEED,
    kind="arithmetic",
    source=STUDY,
    expect="refuted",
    faults=["macs_of_64_to_192_gb_only"],
)
def test_one_working_set_fraction(judge):
    """One fraction, about 75 % of memory, is usable by the GPU on every Mac: reports differ by at most 2 points."""
    from published import speed

    percents = speed.working_set_percents()
    reason = f"reported: {', '.join(f'{percent:.0f} %' for percent in sorted(percents))}; ask the system at run time"
    judge(Measured.exact(max(percents) - min(percents), "points between Macs"), at_most(2), reason)


@claim(
    id="SPEED-19",
    version=1,
    headline=SPEED,
    kind="arithmetic",
    source=STUDY,
    expect="refuted",
    faults=["four_bytes_a_parameter"],
)
def test_12b_needs_48_gb(judge):
    """A 12B model needs 48 GB of memory for its weights."""
    from gemma_bench.models.catalog import SIZES

    size = SIZES["12b"]
    needs = size.weight_bytes(16) / 1e9
    reason = f"bf16; 4-bit needs {size.weight_bytes(4, 64) / 1e9:.1f} GB; the study's figures are 4 bytes a parameter"
    judge(Measured.exact(needs, "GB"), at_least(0.95 * 48), reason)


@claim(
    id="SPEED-20",
    version=1,
    headline=SPEED,
    kind="arithmetic",
    source=STUDY,
    expect="refuted",
    faults=["one_byte_a_parameter"],
)
def test_150b_at_16_bits(judge):
    """256 GB hold a 150B-parameter model at 16 bits."""
    from gemma_bench.core.known_machines import M3_ULTRA
    from gemma_bench.measure import cost

    needs = 150e9 * cost.BF16_BYTES
    judge(Measured.exact(needs / 1e9, "GB"), at_most(M3_ULTRA.memory_bytes / 1e9), "weights alone")


@claim(
    id="SPEED-21",
    version=1,
    headline=SPEED,
    kind="arithmetic",
    source=STUDY,
    expect="holds",
    faults=["two_bytes_a_quantised_weight"],
)
def test_150b_at_8_bits(judge):
    """256 GB hold a 150B-parameter model at 8 bits, within what the GPU may use."""
    from gemma_bench.core.known_machines import M3_ULTRA
    from gemma_bench.models import catalog

    needs = 150e9 * catalog.bits_per_weight(8, 64) / 8
    judge(Measured.exact(needs / 1e9, "GB"), at_most(M3_ULTRA.working_set_bytes / 1e9), "weights alone, 8.5 bits each")


@claim(
    id="SPEED-22",
    version=1,
    headline=SPEED,
    kind="arithmetic",
    source=STUDY,
    expect="refuted",
    faults=["cores_taken_for_devices"],
)
def test_80_gpus(judge):
    """Training can use 80 GPUs of an M3 Ultra."""
    from gemma_bench.core import known_machines

    machine = known_machines.M3_ULTRA
    reason = f"one Metal device with {machine.gpu_cores_count} cores; MLX and torch see one device"
    judge(Measured.exact(machine.gpu_devices_count, "devices"), exactly(80), reason)


@claim(
    id="SPEED-23",
    version=1,
    headline=SPEED,
    kind="arithmetic",
    source=APPLE_M3_ULTRA,
    expect="holds",
    faults=["bandwidth_of_one_die"],
)
def test_bandwidth_is_800(judge):
    """The M3 Ultra's memory bandwidth is 800 GB/s within 3 %."""
    from gemma_bench.core import known_machines

    stated = known_machines.M3_ULTRA.bandwidth_bytes_per_s / 1e9
    judge(Measured.exact(stated, "GB/s"), within_percent(800, 3), "the maker's figure")
