"""Chapter 4, ReLoRA: can merged low-rank updates replace full-rank training."""

from gemma_bench.claims import Measured, at_least, at_most, claim, exactly

from sources import EFFECTIVE_RANK, RELORA, RELORA_PAPER


@claim(
    id="RELORA-1",
    version=1,
    headline=RELORA,
    kind="identity",
    source=RELORA_PAPER,
    expect="holds",
    faults=["restart_without_merge", "merged_twice", "merged_at_the_wrong_scale"],
)
def test_merge_changes_no_output(judge, merge):
    """At fixture scale in float32 a merge changes no logit by more than 1e-5."""
    judge(Measured.exact(merge.largest_change, "largest change of a logit"), at_most(1e-5), merge.reason)


@claim(
    id="RELORA-2",
    version=1,
    headline=RELORA,
    kind="identity",
    source=RELORA_PAPER,
    expect="holds",
    faults=["both_factors_start_at_zero"],
)
def test_fresh_adapters_learn(judge, merge):
    """After a merge every fresh adapter still receives a gradient."""
    judge(Measured.exact(merge.dead_count, "adapters without a gradient"), exactly(0), merge.reason)


@claim(
    id="RELORA-3",
    version=1,
    headline=RELORA,
    kind="measured",
    source=RELORA_PAPER,
    expect="holds",
    faults=["merged_into_bfloat16", "never_merged"],
)
def test_rank_grows_with_every_cycle(judge, rank_evolution):
    """After k merged cycles of rank r every matrix has changed by a matrix of rank exactly min(k·r, m, n), LoRA's by r."""
    worst, reason = rank_evolution.rank_off
    judge(Measured.exact(worst, "directions off"), exactly(0), reason)


@claim(
    id="RELORA-4",
    version=1,
    headline=RELORA,
    kind="measured",
    source=EFFECTIVE_RANK,
    expect="holds",
    faults=["never_merged", "same_a_after_every_merge"],
)
def test_effective_rank_grows(judge, rank_evolution):
    """At fixture scale the effective rank of the change grows with every cycle and is at least 3× LoRA's after five."""
    worst, reason = rank_evolution.growth
    judge(worst, at_least(1), reason)


@claim(
    id="RELORA-5",
    version=1,
    headline=RELORA,
    kind="identity",
    source=RELORA_PAPER,
    expect="holds",
    faults=["no_teeth", "teeth_climb_to_the_peak", "adapters_at_the_full_rank_rate"],
)
def test_schedule_is_jagged(judge, schedule_error):
    """The rate climbs to twice the full-rank rate, follows a cosine, and at each restart falls to zero and climbs back to it."""
    worst, reason = schedule_error
    judge(Measured.exact(worst, "× the full-rank rate off"), at_most(1e-9), reason)


@claim(
    id="RELORA-6",
    version=1,
    headline=RELORA,
    kind="measured",
    source=RELORA_PAPER,
    expect="holds",
    faults=["a_threshold_per_moment", "embeddings_pruned_too"],
)
def test_pruning_shares_one_mask(judge, pruned):
    """Our optimizer reset prunes at least 99 % of both moments of adapter parameters only, with one mask for both."""
    share, reason = pruned
    judge(Measured.exact(share, "% pruned from both moments at once"), at_least(99), reason)


@claim(
    id="RELORA-12",
    version=1,
    headline=RELORA,
    kind="arithmetic",
    source=RELORA_PAPER,
    expect="holds",
    faults=["gap_to_full_rank_training"],
)
def test_warm_start_does_most(judge):
    """In the paper's ablation at 130M the warm start alone removes over 90 % of LoRA's gap that full ReLoRA removes."""
    from published.relora import ABLATION_130M_PERPLEXITY as PERPLEXITY

    lora = PERPLEXITY["LoRA"]
    share = 100 * (lora - PERPLEXITY["warm start"]) / (lora - PERPLEXITY["ReLoRA"])
    judge(Measured.exact(share, "% of the gap"), at_least(90), "perplexities 34.17, 25.46 and 25.04 on C4")
