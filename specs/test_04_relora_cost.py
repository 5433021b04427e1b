"""Chapter 4, ReLoRA, continued: what it saves in memory and time."""

from gemma_bench.claims import Measured, at_least, at_most, claim, within_percent

from sources import RELORA, RELORA_CODE, RELORA_PAPER


@claim(
    id="RELORA-8",
    version=1,
    headline=RELORA,
    kind="measured",
    source=RELORA_CODE,
    expect="holds",
    faults=["activations_left_out", "no_states_in_the_first_step"],
)
def test_memory_is_foreseen(judge, forecast_errors):
    """Predicted training memory is within 5 % of measured, for full training, LoRA, ReLoRA and rank-1 updates."""
    off, reason = forecast_errors
    judge(Measured.exact(max(off.values()), "% off"), at_most(5), reason)


@claim(
    id="RELORA-9",
    version=1,
    headline=RELORA,
    kind="measured",
    source=RELORA_PAPER,
    expect="holds",
    faults=["weights_in_float32", "checkpointing_forgotten"],
)
def test_peak_saving_at_1_3b(judge, peak_savings_gb):
    """At 1.3B the forecast peak saving of ReLoRA with checkpointing at 8×512 tokens in bfloat16 is 5.5 GB ± 15 %."""
    saved, reason = peak_savings_gb
    judge(Measured.exact(saved, "GB"), within_percent(5.5, 15), reason)


@claim(
    id="RELORA-10",
    version=1,
    headline=RELORA,
    kind="recorded",
    source=RELORA_PAPER,
    scale="study",
    expect="open",
    faults=["ratio_upside_down"],
)
def test_a_step_is_faster_at_270m(judge, step_at_270m):
    """On the shape of 270m a ReLoRA step takes at least 9 % less time than a full step at equal tokens."""
    from gemma_bench.measure.validity import require_valid

    from published.relora_cost import less_time_percent, smallest_effect

    record = step_at_270m
    require_valid(record.broken_rules)
    reason = (
        f"{record.case}, rank {record.rank_count}: {record.step_ms:.0f} ms, a merge {record.merge_ms:.0f} ms; "
        f"{smallest_effect(record)} could be told from nothing"
    )
    judge(less_time_percent(record), at_least(9), reason)
