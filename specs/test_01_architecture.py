"""Chapter 1, architecture: is Gemma 3 built as the study says."""

from gemma_bench.claims import Measured, at_least, at_most, between, claim, exactly

from sources import ARCHITECTURE, GEMMA3_CODE, GEMMA3_REPORT, STUDY


@claim(
    id="ARCH-1",
    version=1,
    headline=ARCHITECTURE,
    kind="identity",
    source=GEMMA3_REPORT,
    expect="holds",
    faults=["untied_head_counted_twice", "second_norm_forgotten"],
)
def test_parameter_counts(judge):
    """The five sizes have exactly 268,098,176 / 999,885,952 / 3,880,099,328 / 11,765,788,416 / 27,009,002,240 text parameters."""
    from gemma_bench.models.catalog import SIZES
    from gemma_bench.models.torch_backend import module_parameter_count

    from published.architecture import TEXT_PARAMETERS

    off = {}
    for name, stated in TEXT_PARAMETERS.items():
        counts = SIZES[name].parameter_count, module_parameter_count(SIZES[name])
        off[name] = max(abs(count - stated) for count in counts)
    reason = "counted by formula and on the modules of transformers; off by " + ", ".join(map(str, off.values()))
    judge(Measured.exact(max(off.values()), "parameters off"), exactly(0), reason)


@claim(
    id="ARCH-2",
    version=1,
    headline=ARCHITECTURE,
    kind="identity",
    source=GEMMA3_CODE,
    expect="holds",
    faults=["global_layers_one_early"],
)
def test_layer_pattern(judge):
    """Layer i is global exactly when (i+1) mod 6 = 0, and the ratio is exactly 5:1 only for 270m and 12b."""
    from gemma_bench.models.backend_mlx import library_layer_types as in_mlx
    from gemma_bench.models.catalog import SIZES
    from gemma_bench.models.torch_backend import library_layer_types as in_torch

    off, exact = 0, []
    for name, size in SIZES.items():
        rule = ["full_attention" if (i + 1) % 6 == 0 else "sliding_attention" for i in range(size.num_hidden_layers)]
        for found in (size.layer_types, in_torch(size), in_mlx(size)):
            off += sum(a != b for a, b in zip(rule, found, strict=True))
        if size.layer_types.count("sliding_attention") == 5 * size.layer_types.count("full_attention"):
            exact.append(name)
    off += exact != ["270m", "12b"]
    judge(Measured.exact(off, "layers off"), exactly(0), f"catalog, transformers and mlx_lm; 5:1 in {', '.join(exact)}")


@claim(
    id="ARCH-3",
    version=1,
    headline=ARCHITECTURE,
    kind="arithmetic",
    source=STUDY,
    expect="refuted",
    faults=["library_default_window"],
)
def test_window_is_4096(judge):
    """The sliding window is 4096 tokens."""
    from gemma_bench.models.catalog import SIZES

    from published import listed

    windows = {name: size.sliding_window for name, size in SIZES.items()}
    reason = f"{listed(windows)}; 4096 is the default of the library's configuration class, of no released model"
    judge(Measured.exact(max(windows.values()), "tokens"), exactly(4096), reason)


@claim(
    id="ARCH-4",
    version=1,
    headline=ARCHITECTURE,
    kind="arithmetic",
    source=STUDY,
    expect="refuted",
    faults=["context_of_gemma_2"],
)
def test_context_is_8k(judge):
    """The context is 8K tokens."""
    from gemma_bench.models.catalog import SIZES

    from published import listed

    contexts = {name: size.max_position_embeddings for name, size in SIZES.items()}
    judge(Measured.exact(min(contexts.values()), "tokens"), exactly(8192), f"the smallest of {listed(contexts)}")


@claim(
    id="ARCH-5",
    version=1,
    headline=ARCHITECTURE,
    kind="arithmetic",
    source=STUDY,
    expect="refuted",
    faults=["one_rope_base_for_all_layers"],
)
def test_rope_base_is_10000(judge):
    """RoPE has base frequency 10,000 in every layer."""
    from gemma_bench.models.catalog import SIZES

    bases = {base for size in SIZES.values() for base in (size.rope_local_base_freq, size.rope_theta)}
    reason = "10,000 in local layers, 1,000,000 in global ones, with positions scaled by 8 from 4b up"
    judge(Measured.exact(max(bases), "(largest base)"), exactly(10_000), reason)


@claim(
    id="ARCH-6",
    version=1,
    headline=ARCHITECTURE,
    kind="arithmetic",
    source=STUDY,
    expect="refuted",
    faults=["sizes_of_gemma_1_added"],
)
def test_sizes(judge):
    """The model comes in 2B, 7B, 12B and 27B: all four sizes exist."""
    from gemma_bench.models.catalog import SIZES

    from published.architecture import STUDY_SIZES

    found = [name for name in STUDY_SIZES if name in SIZES]
    judge(Measured.exact(len(found), "of 4 sizes"), exactly(4), f"released are {', '.join(SIZES)}")


@claim(
    id="ARCH-7",
    version=1,
    headline=ARCHITECTURE,
    kind="measured",
    source=GEMMA3_REPORT,
    expect="holds",
    faults=["window_off_by_one", "local_layer_sees_all"],
)
def test_nothing_beyond_the_window(judge, local_influence):
    """In a local layer, a token beyond the window has no influence on the output."""
    beyond, reason, subject = local_influence
    judge(Measured.exact(beyond, "(largest change of a logit)"), exactly(0), reason, subject=subject)


@claim(
    id="ARCH-8",
    version=2,
    headline=ARCHITECTURE,
    kind="measured",
    source=GEMMA3_CODE,
    expect="holds",
    faults=["cache_without_windows", "values_forgotten", "reserved_room_counted"],
)
def test_cache_bytes(judge, cache_differences):
    """At fixture scale, a KV cache read token by token holds exactly the bytes of the formula, a local layer at most its window in MLX and one token less in torch."""
    found, reason, subject = cache_differences
    worst = max(found, key=abs)
    samples = tuple(float(off) for off in found)
    measured = Measured(value=worst, low=worst, high=worst, unit="bytes off", samples=samples)
    judge(measured, exactly(0), reason, subject=subject)


@claim(
    id="ARCH-9",
    version=1,
    headline=ARCHITECTURE,
    kind="arithmetic",
    source=STUDY,
    expect="holds",
    faults=["cache_without_windows"],
)
def test_cache_savings(judge):
    """At 32k tokens in bf16, grouped queries cut the 12b cache from 25.8 GB to 12.9 GB and local windows to 2.5 GB, each within 0.05 GB."""
    from gemma_bench.models.catalog import SIZES

    from published.architecture import STUDY_CACHE_12B_GB

    size, context = SIZES["12b"], 32_768
    every_head = size.model_copy(update={"num_key_value_heads": size.num_attention_heads})
    everywhere = {"kept_tokens": context}
    computed = [
        every_head.kv_cache_bytes(context, 2, **everywhere) / 1e9,
        size.kv_cache_bytes(context, 2, **everywhere) / 1e9,
        size.kv_cache_bytes(context, 2) / 1e9,
    ]
    off = max(abs(ours - stated) for ours, stated in zip(computed, STUDY_CACHE_12B_GB, strict=True))
    judge(Measured.exact(off, "GB off"), at_most(0.05), " → ".join(f"{figure:.2f} GB" for figure in computed))


@claim(
    id="ARCH-10",
    version=2,
    headline=ARCHITECTURE,
    kind="measured",
    source=GEMMA3_CODE,
    expect="holds",
    faults=["local_rope_base_on_global_layers", "norm_without_plus_one"],
)
def test_torch_and_mlx_agree(judge, backends_agree):
    """Torch and MLX compute the same function: within 1e-4 nats on the tiny model in float32, and within a median KL of 0.004 nats per token on the real 270m in bfloat16."""
    measured, reason, subject = backends_agree
    judge(measured, at_most(1), reason, subject=subject)


@claim(
    id="ARCH-11",
    version=1,
    headline=ARCHITECTURE,
    kind="measured",
    source=GEMMA3_CODE,
    expect="holds",
    faults=["residual_read_after_the_norm"],
)
def test_activations_leave_float16(judge, residuals):
    """On real 270m weights, activations pass 65,504, the largest number of float16."""
    peaks, reason, subject = residuals
    judge(Measured.exact(max(peaks), "(largest activation)"), at_least(65_505), reason, subject=subject)


@claim(
    id="ARCH-12",
    version=1,
    headline=ARCHITECTURE,
    kind="arithmetic",
    source=GEMMA3_REPORT,
    expect="refuted",
    faults=["full_length_bf16_cache"],
)
def test_report_table_3(judge):
    """The cache sizes of the report's Table 3 are those of an 8-bit windowed cache, within 20 %."""
    from gemma_bench.models.catalog import SIZES

    from published.architecture import report_cache_gb

    context = 32_768
    reported = {SIZES[name]: gb * 1e9 for name, gb in report_cache_gb().items()}
    ratios = sorted(found / size.kv_cache_bytes(context, 1) for size, found in reported.items())
    full = sorted(found / size.kv_cache_bytes(context, 2, kept_tokens=context) for size, found in reported.items())
    measured = Measured(value=ratios[0], low=ratios[0], high=ratios[-1], unit="×")
    reason = f"they are {full[0]:.2f}–{full[-1]:.2f}× a full-length bf16 cache on all layers"
    judge(measured, between(0.8, 1.2), reason)


@claim(
    id="ARCH-13",
    version=1,
    headline=ARCHITECTURE,
    kind="arithmetic",
    source=STUDY,
    expect="refuted",
    faults=["report_of_may"],
)
def test_release_month(judge):
    """Gemma 3 was released in May 2025."""
    import sources
    from published.architecture import release_month

    measured = Measured.exact(release_month(sources.GEMMA3_REPORT), "(month of 2025)")
    judge(measured, exactly(5), f"the report appeared with the models: {sources.GEMMA3_REPORT}")
