"""Evidence of chapter 6 that needs training: what blocks save and what their objective costs, and what was recorded."""

import pytest

from gemma_bench.claims import Measured


@pytest.fixture
def template_run(request):
    """Return the passes taken and the accuracy lost, whichever is farther towards its limit, as a share of it.

    Passes may be a third of the tokens, lost answers 3 in 100: prompts that one token at a time gets right.
    """
    from gemma_bench.experiments.set_block_speedup import FIXTURE, run

    smaller = {"mixtures": (("digits",),), "start_steps": 150, "tuning_steps": 450, "prompts": 200, "pool": 1000}
    (record,) = run(FIXTURE.model_copy(update=smaller) if request.config.option.faults else FIXTURE)
    rows = zip(record.row_model, record.row_decoder, record.row_block_tokens, strict=True)
    before, found, single = (number for number, (_, decoder, _) in enumerate(rows) if decoder == "entropy")
    passes = [
        3 / end[found]
        for end in (record.row_tokens_per_pass_high, record.row_tokens_per_pass, record.row_tokens_per_pass_low)
    ]
    lost = [end[found] / 0.03 for end in (record.row_lost_low_ratio, record.row_lost_ratio, record.row_lost_high_ratio)]
    low, value, high = max(passes, lost, key=lambda share: share[2])
    reason = (
        f"{record.row_tokens_per_pass[found]:.2f} tokens per pass, {100 * record.row_right_ratio[found]:.1f} % of "
        f"{record.prompts_count} right ({100 * record.row_right_ratio[record.row_model.index('set block')]:.1f} % one by one), "
        f"{100 * record.row_lost_ratio[found]:.2f} % lost, at most {100 * record.row_lost_high_ratio[found]:.1f} %; before "
        f"the block objective {100 * record.row_right_ratio[before]:.1f} % right; in blocks of one token "
        f"{record.row_tokens_per_pass[single]:.2f} tokens per pass; so near-zero an entropy does not test the bound"
    )
    return Measured(value=value, low=low, high=high, unit="× of what is allowed"), reason


@pytest.fixture
def text_gap(request):
    """Return how far the next-token loss on held-out names of Unicode's table is above that of the equal-token control."""
    from gemma_bench.experiments.set_block_speedup import FIXTURE, run

    size = {"hidden_size": 32, "heads": 1, "feed_forward": 96, "batch_size": 8, "pool": 1000, "prompts": 100}
    steps = {"start_steps": 200, "tuning_steps": 200, "prompts": 200}
    smaller = {**size, "start_steps": 60, "tuning_steps": 60}
    (record,) = run(
        FIXTURE.model_copy(update={"mixtures": (("table",),), **(smaller if request.config.option.faults else steps)})
    )
    start, own, control = map(record.loss_model.index, ("start", "set block", "equal tokens"))
    reason = (
        f"{record.loss_nats[own]:.3f} against {record.loss_nats[control]:.3f} nats after {record.tuning_count_tokens:,} "
        f"tokens each, from {record.loss_nats[start]:.3f} at the start; one rate for both, one seed"
    )
    ends = (record.loss_over_control_low_nats, record.loss_over_control_nats, record.loss_over_control_high_nats)
    low, value, high = (end[own] for end in ends)
    return Measured(value=value, low=low, high=high, unit="nats above the control"), reason


@pytest.fixture
def recorded_saving(recorded):
    """Return the largest share of passes that a setting of the real model saves while it keeps its lines right.

    Lines are kept where the interval of their loss ends at 3 points or below; where none is kept, nothing is saved.
    """
    from gemma_bench.core.errors import InvalidRunError
    from gemma_bench.experiments.set_block_gemma import VERSION, SetBlockGemmaRecord

    from published import set_block

    record = recorded(
        "set_block_gemma", SetBlockGemmaRecord, version=VERSION, where=lambda one: one.scale in ("study", "full")
    )
    rows = [
        row for row, model in enumerate(record.row_model) if model == "set block" and record.row_amount[row] is not None
    ]
    if not rows:
        raise InvalidRunError("incomplete", f"the record of {record.date_utc} tried no setting in its time")
    kept = [row for row in rows if record.row_fewer_right_high_ratio[row] <= 0.03]
    best = max(kept, key=lambda row: record.row_tokens_per_pass[row], default=None)
    reason = (
        f"{record.scale}, {record.set_block_count_tokens:,} tokens of training, {record.vocabulary_count:,} in the vocabulary; "
    ) + "; ".join(
        f"{record.row_decoder[row]} {record.row_amount[row]:g} in blocks of {record.row_block_tokens[row]}: "
        f"{record.row_tokens_per_pass[row]:.2f} tokens per pass, {100 * record.row_fewer_right_ratio[row]:.1f} "
        f"(up to {100 * record.row_fewer_right_high_ratio[row]:.1f}) points fewer lines right"
        for row in rows[:6]
    )
    ends = (record.row_tokens_per_pass_low, record.row_tokens_per_pass, record.row_tokens_per_pass_high)
    low, value, high = sorted(set_block.saved_percent(1 if best is None else end[best]) for end in ends)
    return Measured(value=value, low=low, high=high, unit="% of the passes"), reason
