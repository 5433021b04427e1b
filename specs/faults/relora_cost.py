"""Known-bad variants of chapter 4, costs: each returns a context manager under which a check must reverse its verdict."""

from unittest.mock import patch


def activations_left_out():
    from gemma_bench.measure import training_memory

    right = training_memory.forecast
    return patch.object(
        training_memory, "forecast", lambda plan: right(plan).model_copy(update={"activations_bytes": 0})
    )


def no_states_in_the_first_step():
    from gemma_bench.measure import training_memory

    right = training_memory.forecast
    return patch.object(training_memory, "forecast", lambda plan: right(plan).model_copy(update={"optimizer_bytes": 0}))


def _plans(**fields):
    """Make every plan that a fixture asks for with these fields."""
    from gemma_bench.training import plan

    right = plan.Plan
    return patch.object(plan, "Plan", lambda *given, **knobs: right(*given, **{**knobs, **fields}))


def weights_in_float32():
    return _plans(dtype="float32", adapter_dtype="float32")


def checkpointing_forgotten():
    return _plans(checkpointing=False)


def ratio_upside_down():
    from published import relora_cost

    right = relora_cost.less_time_percent

    def wrong(record):
        ends = {"": record.over_first_ratio, "low_": record.over_first_high_ratio, "high_": record.over_first_low_ratio}
        return right(record.model_copy(update={f"over_first_{end}ratio": 1 / ratio for end, ratio in ends.items()}))

    return patch.object(relora_cost, "less_time_percent", wrong)
