"""Chapter 4, ReLoRA's loss: does it end below LoRA, and how often should it merge."""

from gemma_bench.claims import at_least, at_most, claim

from sources import RELORA, RELORA_PAPER


@claim(
    id="RELORA-7",
    version=1,
    headline=RELORA,
    kind="recorded",
    source=RELORA_PAPER,
    scale="study",
    expect="holds",
    faults=["arms_taken_for_each_other", "first_reading_taken_for_the_last", "rank_matched_lora_taken_for_lora"],
)
def test_relora_ends_below_lora(judge, arms, excess):
    """At 0.8 million parameters, equal tokens and each at its best rate, ReLoRA ends no higher in held-out loss than LoRA of the same rank."""
    from gemma_bench.experiments import low_rank_training

    measured, reason = excess(arms(low_rank_training, "long", "study"), "relora", "lora")
    judge(measured, at_most(0), reason)


@claim(
    id="RELORA-11",
    version=1,
    headline=RELORA,
    kind="recorded",
    source=RELORA_PAPER,
    scale="study",
    expect="open",
    faults=["arms_taken_for_each_other", "first_arm_at_its_worst_rate"],
)
def test_merges_can_be_too_frequent(judge, arms, excess, in_longer):
    """At 165 thousand parameters, ReLoRA that merges every 100 of 1,000 steps ends higher in held-out loss than one that merges every 200."""
    from gemma_bench.experiments import merge_frequency

    measured, reason = excess(arms(merge_frequency), "relora_100", "relora_200")
    judge(measured, at_least(0), f"{in_longer(merge_frequency, 'relora_200', 'relora_400')}; {reason}")
