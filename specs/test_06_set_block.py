"""Chapter 6, set block decoding: how many forward passes can a block save."""

from gemma_bench.claims import Measured, at_least, at_most, claim, exactly

from sources import EB_SAMPLER, FAST_DLLM, SET_BLOCK, SET_BLOCK_PAPER


@claim(
    id="SBD-1",
    version=1,
    headline=SET_BLOCK,
    kind="identity",
    source=SET_BLOCK_PAPER,
    expect="holds",
    faults=["finished_tokens_see_the_block"],
)
def test_the_prefix_is_untouched(judge, prefix_changes):
    """A block of mask tokens behind a text changes no next-token logit of the text by more than 1e-4, in torch and MLX."""
    worst = max(prefix_changes, key=prefix_changes.get)
    reason = f"{worst}; blocks of 1 to 16 behind 20 tokens of the tiny model, whose window is 8"
    judge(Measured.exact(prefix_changes[worst], "(largest change of a logit)"), at_most(1e-4), reason)


@claim(
    id="SBD-2",
    version=1,
    headline=SET_BLOCK,
    kind="identity",
    source=SET_BLOCK_PAPER,
    expect="holds",
    faults=["blocks_keys_and_values_kept"],
)
def test_the_cache_is_exact(judge, cache_changes):
    """After a block is committed, every key and value is within 1e-4 of a plain causal prefill's, in torch and MLX."""
    worst = max(cache_changes, key=cache_changes.get)
    reason = f"{worst}; 40 tokens in blocks of 3 to 16, local layers (window 8) and global ones"
    judge(Measured.exact(cache_changes[worst], "(largest difference)"), at_most(1e-4), reason)


@claim(
    id="SBD-3",
    version=1,
    headline=SET_BLOCK,
    kind="identity",
    source=EB_SAMPLER,
    expect="holds",
    faults=["largest_entropy_counted", "entropies_unsorted", "bits_for_nats"],
)
def test_entropy_bounded_sampler(judge, sampler_disagreements):
    """The sampler fixes the largest sorted set with ΣH − max H ≤ γ: one token at γ = 0, all at γ = ∞."""
    off, reason = sampler_disagreements
    judge(Measured.exact(off, "blocks off"), exactly(0), reason)


@claim(
    id="SBD-6",
    version=1,
    headline=SET_BLOCK,
    kind="measured",
    source=SET_BLOCK_PAPER,
    expect="holds",
    faults=["tokens_of_a_block_read_apart"],
)
def test_time_saved(judge, time_turned):
    """At fixture scale in torch at batch 1, set block decoding turns at least 40 % of the passes saved into time saved."""
    measured, reason = time_turned
    judge(measured, at_least(40), reason)


@claim(
    id="SBD-7",
    version=1,
    headline=SET_BLOCK,
    kind="arithmetic",
    source=SET_BLOCK_PAPER,
    expect="holds",
    faults=["printed_code_mended", "printed_code_left"],
)
def test_roofline_table(judge):
    """All 224 cells of the paper's roofline follow from its printed code, 163 change once its widths are mended, and 16 tokens then still cost at most 1.11 of one up to batch 16."""
    from gemma_bench.measure import roofline

    from published.set_block import ROOFLINE_BLOCK, roofline_cells

    cells = roofline_cells()
    printed, mended = (
        {cell: roofline.slowdown(shape, *cell) for cell in cells} for shape in (roofline.PRINTED, roofline.MENDED)
    )
    off = sum(abs(printed[cell] - cells[cell]) > 0.0005 for cell in cells)
    changed = sum(abs(mended[cell] - cells[cell]) > 0.0005 for cell in cells)
    costs = [cost for (_, block, _), cost in mended.items() if block == ROOFLINE_BLOCK]
    dear = sum(cost > 1.11 for cost in costs)
    reason = f"{len(cells)} cells, {changed} change when mended; a block of 16 then costs {max(costs):.3f} at most"
    judge(Measured.exact(off + abs(changed - 163) + dear, "cells off"), exactly(0), reason)


@claim(
    id="SBD-8",
    version=1,
    headline=SET_BLOCK,
    kind="arithmetic",
    source=SET_BLOCK_PAPER,
    expect="refuted",
    faults=["chat_tasks_left_out"],
)
def test_three_times_without_loss(judge):
    """At the γ that keeps accuracy, every task of the paper takes at least 3 times fewer passes."""
    from published import set_block

    savings = set_block.savings_without_loss()
    least, most = min(savings, key=savings.get), max(savings, key=savings.get)
    losses = " and ".join(f"{set_block.largest_loss_points(gamma):.1f} at the {gamma}" for gamma in ("low", "high"))
    reason = (
        f"least {least}, most {savings[most]} ({most}); mean {sum(savings.values()) / len(savings):.2f}; the worst task "
        f"loses {losses} γ, in points"
    )
    judge(Measured.exact(savings[least], "× fewer passes"), at_least(3), reason)


@claim(
    id="SBD-10",
    version=1,
    headline=SET_BLOCK,
    kind="arithmetic",
    source=FAST_DLLM,
    expect="refuted",
    faults=["factor_rule_as_corrected"],
)
def test_printed_factor_rule(judge):
    """The Factor rule as appendix B.1 prints it, (n + 1)·c_n < f, fixes more tokens of a block the surer they are."""
    import numpy as np

    from published import set_block

    costs = (set_block.printed_factor_cost(np.full(16, confidence)) for confidence in (0.99, 0.01))
    sure, unsure = (int((cost < 1).sum()) for cost in costs)
    reason = f"at f = 1 it fixes {sure} of 16 tokens of confidence 0.99 and {unsure} of confidence 0.01"
    judge(Measured.exact(sure - unsure, "more tokens"), at_least(1), reason)


@claim(
    id="SBD-4",
    version=1,
    headline=SET_BLOCK,
    kind="measured",
    source=SET_BLOCK_PAPER,
    expect="holds",
    faults=["objective_not_trained", "blocks_of_one_token"],
)
def test_passes_on_templates(judge, template_run):
    """On text from a template, at fixture scale, block decoding needs at most a third of the passes at an accuracy within 3 points."""
    measured, reason = template_run
    judge(measured, at_most(1), reason)


@claim(
    id="SBD-5",
    version=1,
    headline=SET_BLOCK,
    kind="measured",
    source=SET_BLOCK_PAPER,
    expect="refuted",
    faults=["control_not_trained"],
)
def test_next_token_loss(judge, text_gap):
    """On real text, at fixture scale, the block objective leaves the next-token loss within 0.02 nats of a control trained on as many next tokens."""
    measured, reason = text_gap
    judge(measured, at_most(0.02), reason)


@claim(
    id="SBD-9",
    version=1,
    headline=SET_BLOCK,
    kind="recorded",
    source=SET_BLOCK_PAPER,
    expect="open",
    faults=["recorded_saving_mirrored"],
)
def test_real_gemma(judge, recorded, saving):
    """On real Gemma 3 270m and Python sources, decoding in blocks saves at least a third of the passes with at most 3 points fewer lines right than one token at a time."""
    from gemma_bench.experiments.set_block_gemma import VERSION, SetBlockGemmaRecord

    found = recorded(
        "set_block_gemma",
        SetBlockGemmaRecord,
        version=VERSION,
        where=lambda record: record.scale != "fixture" and record.start_steps_count is None,
    )
    measured, ways = saving(found, "fewer_right")
    reason = f"{found.scale}, {found.set_block_count_tokens:,} tokens of training, {found.vocabulary_count:,} in the vocabulary; {ways}"
    judge(measured, at_least(100 / 3), reason)


@claim(
    id="SBD-11",
    version=1,
    headline=SET_BLOCK,
    kind="recorded",
    source=SET_BLOCK_PAPER,
    expect="refuted",
    faults=["recorded_saving_mirrored"],
    scale="study",
)
def test_answers_that_may_be_any_of_three(judge, recorded, saving):
    """Where any one of three words is a right answer, a tiny model decoding in blocks saves at least a third of the passes with at most 3 points fewer answers right."""
    from gemma_bench.experiments.set_block_speedup import VERSION, SetBlockRecord

    found = recorded(
        "set_block_speedup",
        SetBlockRecord,
        version=VERSION,
        where=lambda record: record.families == "choice" and record.scale == "study",
    )
    measured, ways = saving(found, "lost")
    judge(measured, at_least(100 / 3), f"{found.tuning_count_tokens:,} tokens of training; {ways}")
