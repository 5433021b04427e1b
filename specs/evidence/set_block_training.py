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
    without_control = {"controls": (), **(smaller if request.config.option.faults else {})}
    (record,) = run(FIXTURE.model_copy(update=without_control))
    rows = zip(record.row_model, record.row_decoder, record.row_block_tokens, strict=True)
    before, found = (number for number, (_, decoder, _) in enumerate(rows) if decoder == "entropy")
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
        f"the block objective {100 * record.row_right_ratio[before]:.1f} % right"
    )
    return Measured(value=value, low=low, high=high, unit="× of what is allowed"), reason


@pytest.fixture
def text_gap(request):
    """Return how far the next-token loss on held-out names of Unicode's table is above that of the equal-token control."""
    from gemma_bench.experiments.set_block_arms import EQUAL_TOKENS, SET_BLOCK, START, Recipe, train_models
    from gemma_bench.experiments.set_block_speedup import next_token_losses
    from gemma_bench.training.families import draw, find_family

    recipe, prompts = Recipe(start_steps=200, tuning_steps=200, controls=(EQUAL_TOKENS,)), 200
    if request.config.option.faults:
        size = {"hidden_size": 32, "heads": 1, "feed_forward": 96, "batch_size": 8, "pool": 1000}
        recipe, prompts = recipe.model_copy(update={**size, "start_steps": 60, "tuning_steps": 60}), 100
    trained = train_models(recipe, ("table",))
    examples = draw(find_family("table"), prompts, recipe.seed + 1, held_out=True)
    lines = {line["model"]: line for line in next_token_losses("table", trained, examples)}
    own, control, start = (lines[name]["nats"] for name in (SET_BLOCK, EQUAL_TOKENS, START))
    reason = (
        f"{own:.3f} against {control:.3f} nats after {trained[SET_BLOCK].count_tokens:,} tokens each, from {start:.3f} at "
        f"the start; one rate for both, one seed"
    )
    low, value, high = (lines[SET_BLOCK][f"over_control{end}_nats"] for end in ("_low", "", "_high"))
    return Measured(value=value, low=low, high=high, unit="nats above the control"), reason


@pytest.fixture
def saving():
    """Return what judges a record: the largest share of passes that a setting saves while it keeps its answers right."""
    from gemma_bench.core.errors import InvalidRunError

    def judged(record, loss):
        rows = [
            row
            for row, model in enumerate(record.row_model)
            if model == "set block" and record.row_amount[row] is not None
        ]
        if not rows:
            raise InvalidRunError("incomplete", f"the record of {record.date_utc} tried no setting in its time")
        least, fewer, most = (getattr(record, f"row_{loss}{end}_ratio") for end in ("_low", "", "_high"))
        reason = "; ".join(
            f"{record.row_decoder[row]} {record.row_amount[row]:g} in blocks of {record.row_block_tokens[row]}: "
            f"{record.row_tokens_per_pass[row]:.2f} tokens per pass, {100 * fewer[row]:.1f} "
            f"({100 * least[row]:.1f} to {100 * most[row]:.1f}) points fewer right"
            for row in rows[:6]
        )
        rates = (record.row_tokens_per_pass_low, record.row_tokens_per_pass, record.row_tokens_per_pass_high)
        ways = [[[column[row] for column in columns] for columns in (rates, (least, fewer, most))] for row in rows]
        low, value, high = saved_without_loss(ways)
        return Measured(value=value, low=low, high=high, unit="% of the passes"), reason

    return judged


def saved_without_loss(ways):
    """Return low end, value and high end of the largest saving, in percent, of the ways that lose at most 3 points.

    Each way has three tokens per pass and three losses: low end, value, high end. The low end is that of the ways whose
    loss is surely so small, the high end that of those whose loss may be; where there is none, nothing is saved.
    """
    from published import set_block

    def saved(end, of_loss):
        kept = (rates[end] for rates, losses in ways if losses[of_loss] <= 0.03)
        return set_block.saved_percent(max(kept, default=1))

    return sorted((saved(0, 2), saved(1, 1), saved(2, 0)))
