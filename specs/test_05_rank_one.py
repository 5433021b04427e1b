"""Chapter 5, rank one: how small can an update be."""

from gemma_bench.claims import Measured, at_least, at_most, between, claim, exactly

from sources import BFLOAT16, EFFECTIVE_RANK, RANK_ONE, RANK_ONE_ALGEBRA, STUDY


@claim(
    id="RANK1-1",
    version=1,
    headline=RANK_ONE,
    kind="identity",
    source=RANK_ONE_ALGEBRA,
    expect="holds",
    faults=["weight_decay_in_the_gradient", "rounding_counted_as_rank"],
)
def test_gradient_rank_is_at_most_the_tokens(judge, gradient_excess):
    """The gradient of a linear layer has rank at most the number of tokens, and exactly 1 for a single token."""
    worst, reason = gradient_excess
    judge(Measured.exact(worst, "directions more than tokens"), exactly(0), reason)


@claim(
    id="RANK1-2",
    version=1,
    headline=RANK_ONE,
    kind="measured",
    source=STUDY,
    expect="refuted",
    faults=["sequences_of_one_token"],
)
def test_batch_of_one_is_rank_one(judge, batch_of_one):
    """With batch size 1, updates are inherently rank 1."""
    smallest, reason, subject = batch_of_one
    judge(Measured.exact(smallest, "smallest rank of a gradient"), exactly(1), reason, subject=subject)


@claim(
    id="RANK1-3",
    version=1,
    headline=RANK_ONE,
    kind="identity",
    source=RANK_ONE_ALGEBRA,
    expect="holds",
    faults=["b_drawn_at_random", "scale_left_out_of_the_merge"],
)
def test_step_from_zero(judge, step_from_zero):
    """From B = 0 one step of descent moves the weight by exactly −η·s²·G·Aᵀ·A, and A gets no gradient."""
    worst, reason = step_from_zero
    judge(Measured.exact(worst, "relative error"), at_most(1e-12), reason)


@claim(
    id="RANK1-4",
    version=1,
    headline=RANK_ONE,
    kind="measured",
    source=RANK_ONE_ALGEBRA,
    expect="holds",
    faults=["a_of_length_one", "a_as_lora_draws_it"],
)
def test_random_step_is_a_sketch(judge, sketch):
    """A random rank-1 step is an unbiased sketch of a gradient with n inputs: cosine 1/√n (root mean square), second moment n + 2, within 5 %."""
    worst, reason = sketch
    judge(worst, between(0.95, 1.05), reason)


@claim(
    id="RANK1-5",
    version=1,
    headline=RANK_ONE,
    kind="measured",
    source=RANK_ONE_ALGEBRA,
    expect="holds",
    faults=["same_a_at_every_step", "merged_into_bfloat16"],
)
def test_rank_grows_with_every_step(judge, merged_steps):
    """After k merged rank-1 steps with a random A every matrix has changed by a matrix of rank exactly min(k, m, n)."""
    worst, reason = merged_steps
    judge(Measured.exact(worst, "directions off"), exactly(0), reason)


@claim(
    id="RANK1-6",
    version=2,
    headline=RANK_ONE,
    kind="measured",
    source=EFFECTIVE_RANK,
    expect="holds",
    faults=["singular_pair_never_sought"],
)
def test_top_pairs_spread_wider_than_lora(judge, rules):
    """After 200 merged steps of the top singular pair, the effective rank of the change exceeds that of LoRA-8 at 159 thousand parameters."""
    ratio, reason = rules
    judge(ratio, at_least(1), reason)


@claim(
    id="RANK1-7",
    version=1,
    headline=RANK_ONE,
    kind="recorded",
    source=STUDY,
    scale="study",
    expect="refuted",
    faults=["arms_taken_for_each_other"],
)
def test_plain_rank_one_updates_train_as_well(judge, arms, excess, best):
    """At 165 thousand parameters and equal tokens, the best plain rank-1 update merged at every step ends within 0.02 nats of LoRA-8 with AdamW."""
    from gemma_bench.experiments import rank_one_rules

    record = arms(rank_one_rules, "long", "study")
    plain = best(record, ("top_pair", "random_a", "random_b"))
    measured, reason = excess(record, plain, "lora_8")
    judge(measured, at_most(0.02), f"plain is descent, without Adam (sign) or error feedback; {reason}")


@claim(
    id="RANK1-8",
    version=1,
    headline=RANK_ONE,
    kind="recorded",
    source=STUDY,
    scale="study",
    expect="holds",
    faults=["arms_taken_for_each_other", "worst_interval_taken_for_the_best"],
)
def test_merging_at_every_step_is_not_best(judge, arms, excess, best):
    """At 165 thousand parameters, a rank-1 update that is merged at every step ends higher in held-out loss than at the best rarer interval."""
    from gemma_bench.experiments import merge_frequency

    record = arms(merge_frequency, "long", "study")
    rarer = [name for name in record.arms if name.startswith("rank1_") and name != "rank1_1"]
    measured, reason = excess(record, "rank1_1", best(record, rarer))
    judge(measured, at_least(0), f"sign steps, whose Adam begins anew at every merge; {reason}")


@claim(
    id="RANK1-9",
    version=1,
    headline=RANK_ONE,
    kind="measured",
    source=BFLOAT16,
    expect="holds",
    faults=["merged_in_float64"],
)
def test_bfloat16_loses_updates(judge, lost_in_bfloat16):
    """Merging 100 rank-1 updates of 0.01 % each into bfloat16 weights of 270m loses more than half of their sum."""
    share, reason, subject = lost_in_bfloat16
    judge(Measured.exact(100 * share, "% of the sum lost"), at_least(50), reason, subject=subject)
