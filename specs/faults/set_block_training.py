"""Known-bad variants of chapter 6's trainings and records."""

from dataclasses import replace
from unittest.mock import patch


def objective_not_trained():
    """Put the next-token control in the place of the model with the block objective: as accurate, and no use in blocks."""
    from gemma_bench.experiments import set_block_speedup

    right = set_block_speedup.train_models

    def wrong(recipe, *arguments):
        trained = right(recipe.model_copy(update={"controls": ("equal tokens",)}), *arguments)
        return {**trained, "set block": trained["equal tokens"]}

    return patch.object(set_block_speedup, "train_models", wrong)


def blocks_of_one_token():
    from gemma_bench.experiments.set_block_writing import Setting

    right = Setting.method.fget
    return patch.object(Setting, "method", property(lambda setting: replace(right(setting), block_size=1)))


def control_not_trained():
    """Leave the control as it was at the start; the other model trains as it should."""
    from gemma_bench.experiments import set_block_arms

    right = set_block_arms.train_models

    def wrong(*arguments):
        trained = right(*arguments)
        return {**trained, "equal tokens": replace(trained["equal tokens"], model=trained["start"].model)}

    return patch.object(set_block_arms, "train_models", wrong)


def recorded_saving_mirrored():
    from published import set_block

    right = set_block.saved_percent
    return patch.object(set_block, "saved_percent", lambda tokens: 200 / 3 - right(tokens))
