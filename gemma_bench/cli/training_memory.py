"""The training half of `gemma-bench analyze memory`: what a step takes, by kind, and what would make it fit."""

from typing import Any

from gemma_bench.cli.console import output, print_json
from gemma_bench.cli.limits import Limits, shown, verdict
from gemma_bench.core.errors import BadInputError, unknown
from gemma_bench.core.units import gigabytes

RECIPES = ("train", "published")

_LENGTH, _RANK = 1024, 16


def plan_of(model: str, name: str, recipe: str, of_method: dict[str, Any], knobs: dict[str, Any]) -> Any:
    """Return the plan of a step; of what is `None` the recipe decides.

    `train` is what `gemma-bench train` does, `published` what the papers' code did: weights, moments and logits whole
    and in one precision, embeddings trained.
    """
    from gemma_bench.training.plan import Plan, trainable_size

    size, is_published = trainable_size(model), _is_published(recipe)
    method = _method(name, is_published, {option: value for option, value in of_method.items() if value is not None})
    given = {knob: value for knob, value in knobs.items() if value is not None}
    given = {"length": min(_LENGTH, size.max_position_embeddings), **given}
    if is_published:
        return Plan(size, method, **given)
    for option in ("adapter_dtype", "exact_merges"):
        if option in given:
            raise BadInputError(f"--{option.replace('_', '-')} is only for --recipe published: train chooses itself")
    return Plan.as_trained(size, method, **given)


def _is_published(recipe: str) -> bool:
    if recipe not in RECIPES:
        raise unknown("recipe", recipe, RECIPES)
    return recipe == "published"


def _method(name: str, is_published: bool, given: dict[str, Any]) -> Any:
    """Return a method by its name; an option that it does not have is refused."""
    from typing import get_args

    from gemma_bench.methods.choice import method_named

    method: Any = method_named(name, given.get("rank", _RANK), embeddings=is_published or name == "full")
    fields = type(method).model_fields
    for option, value in given.items():
        if option not in fields:
            raise BadInputError(f"{name} has no {option}: leave out --{option}")
        if (allowed := get_args(fields[option].annotation)) and value not in allowed:
            raise unknown(option, value, allowed)
    return method.model_copy(update=given)


def show(model: str, plan: Any, recipe: str, limits: Limits, ram: float | None, json: bool) -> None:
    """Print a step's forecast, the arithmetic beside it, and whether it fits."""
    from rich.table import Table

    from gemma_bench.measure.training_closed_form import closed_form
    from gemma_bench.measure.training_fit import NONE_IS_ENOUGH, fitting_knobs
    from gemma_bench.measure.training_memory import forecast

    found, peak = forecast(plan), closed_form(plan).peak_bytes
    figures = {**found.model_dump(), "peak_bytes": found.peak_bytes, "closed_form_peak_bytes": peak}
    remedy = None if found.peak_bytes <= limits[0] else fitting_knobs(plan, limits[0])
    asked = {
        "method": plan.method.name,
        **plan.method.model_dump(include={"rank", "rule"}),
        "batch_size": plan.batch_size,
        "length": plan.length,
        "weights": plan.dtype,
        "computes_in": "bfloat16" if plan.autocast else plan.dtype,
        "checkpointing": plan.checkpointing,
    }
    if json:
        limited = {"limit_low_bytes": limits[0], "limit_high_bytes": limits[1]}
        fits = {"it_fits": found.peak_bytes <= limits[0], "fits_with": remedy}
        print_json({"model": model, "recipe": recipe, **asked, **figures, **limited, **fits})
        return
    step = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in asked.items() if name != "method")
    title = f"a {plan.method.name} step of {model}; GB = 10⁹ bytes"
    table = Table("what", "bytes at the peak", title=title)
    for name, count in figures.items():
        table.add_row(name.removesuffix("_bytes").replace("_", " "), gigabytes(count))
    table.add_row("limit", shown(limits))
    output.print(table)
    output.print(f"{recipe} recipe: {step}.", highlight=False, soft_wrap=True)
    remedy = f"it fits with {remedy}" if remedy else NONE_IS_ENOUGH
    output.print(verdict(found.peak_bytes, limits, ram, remedy), highlight=False, soft_wrap=True)
