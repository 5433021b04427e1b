"""Evidence of chapter 4: what ReLoRA costs. In a fault run a smaller Llama and the tiny Gemma stand for the others."""

import pytest


@pytest.fixture
def forecast_errors(request):
    """Return how far a forecast on tensors without contents is from the count of a real step's, in percent."""
    from gemma_bench.measure.training_memory import forecast, measure
    from gemma_bench.methods.choice import METHODS, method_named
    from gemma_bench.training.plan import Plan, trainable_size

    names = ("full", "relora") if request.config.option.faults else METHODS
    cases = [("tiny", name, 4, 64, "float32", ck) for name in names for ck in (False, True)]
    cases += [("tiny", "lora", 4, 64, "bfloat16", False)]  # of 270m it takes minutes where a processor has no bfloat16
    if not request.config.option.faults:
        cases += [("270m", "lora", 1, 64, "float32", False), ("270m", "full", 1, 32, "float32", False)]
    plans = {
        f"{model} {name} {dtype}{' checkpointing' if checkpointing else ''}": Plan(
            trainable_size(model), method_named(name, 8), batch, length, dtype, checkpointing=checkpointing
        )
        for model, name, batch, length, dtype, checkpointing in cases
    }
    for name, passes in (("relora", 1), ("rank1", 3)):
        knobs = {"dtype": "bfloat16", "batch_size": 4, "length": 64, "gradient_accumulation": passes}
        plan = Plan.as_trained(trainable_size("tiny"), method_named(name, 8), **knobs)
        plans[f"tiny {name} as trained in bfloat16, {passes} passes"] = plan
    off = {case: 100 * abs(forecast(plan).peak_bytes / measure(plan).peak_bytes - 1) for case, plan in plans.items()}
    return off, ", ".join(f"{case} {percent:.2f} %" for case, percent in off.items())


@pytest.fixture
def peak_savings_gb():
    """Return what ReLoRA's peak is below full training's with checkpointing, and the other readings of the saving."""
    from gemma_bench.measure.training_closed_form import closed_form
    from gemma_bench.measure.training_memory import forecast
    from gemma_bench.methods.choice import method_named
    from gemma_bench.training.plan import Plan, trainable_size

    peaks, states = {}, {}
    for name in ("full", "relora"):
        for checkpointing in (True, False):
            knobs = {"checkpointing": checkpointing, "adapter_dtype": "bfloat16", "exact_merges": False}
            plan = Plan(trainable_size("llama-1.3b"), method_named(name, 128), 8, 512, **knobs)
            peaks[name, checkpointing] = forecast(plan).peak_bytes / 1e9
        states[name] = closed_form(plan).states_bytes / 1e9
    saved, without = (peaks["full", knob] - peaks["relora", knob] for knob in (True, False))
    listed = ", ".join(
        f"{name}{' checkpointing' if knob else ''} {peak:.2f} GB" for (name, knob), peak in peaks.items()
    )
    states_saved = states["full"] - states["relora"]
    return (
        saved,
        f"peaks: {listed}; without checkpointing {without:.2f} GB saved, in states alone {states_saved:.2f} GB",
    )


@pytest.fixture
def step_at_270m(recorded, request):
    """Return the record of a ReLoRA step on the shape of 270m; in a fault run one that is clearly faster than a full step."""
    from evidence.known_answers import a_fifth_faster

    from gemma_bench.experiments import step_cost

    def is_meant(record):
        is_first = record.case == step_cost.STUDY.cases[0].name
        return is_first and (record.scale, record.method, record.device) == ("study", "relora", "cpu")

    record = recorded("step_cost", step_cost.StepRecord, version=step_cost.VERSION, where=is_meant)
    return a_fifth_faster(record) if request.config.option.faults else record
