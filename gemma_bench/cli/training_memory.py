"""The training half of `gemma-bench analyze memory`: what a step takes, by kind, and what would make it fit."""

from typing import Any

from gemma_bench.cli.console import output, print_json
from gemma_bench.core.errors import BadInputError
from gemma_bench.core.units import gigabytes


def trained(name: str, rank: int, *, embeddings: bool) -> Any:
    """Return a method by its name, with or without the embedding that the published recipes train."""
    from gemma_bench.methods.choice import method_named

    method: Any = method_named(name, rank)
    if embeddings:
        return method
    if not getattr(method, "embeddings", False):
        raise BadInputError(f"{name} trains no embedding: leave out --no-embeddings")
    return method.model_copy(update={"embeddings": False})


def show(model: str, method: Any, rank: int, knobs: dict[str, Any], limits: tuple[int, int], json: bool) -> None:
    """Print a step's forecast, the arithmetic beside it, and whether it fits."""
    from rich.table import Table

    from gemma_bench.measure.training_closed_form import closed_form
    from gemma_bench.measure.training_fit import fitting_knobs
    from gemma_bench.measure.training_memory import forecast
    from gemma_bench.training.plan import Plan, trainable_size

    plan = Plan(trainable_size(model), method, **knobs)
    found, peak = forecast(plan), closed_form(plan).peak_bytes
    figures = {**found.model_dump(), "peak_bytes": found.peak_bytes, "closed_form_peak_bytes": peak}
    fits = found.peak_bytes <= limits[0]
    remedy = None if fits else fitting_knobs(plan, limits[0])
    if json:
        limited = {"limit_low_bytes": limits[0], "limit_high_bytes": limits[1], "it_fits": fits, "fits_with": remedy}
        print_json({"model": model, "method": method.name, "rank": rank, **knobs, **figures, **limited})
        return
    table = Table("what", "bytes at the peak", title=f"a {method.name} step of {model}; GB = 10⁹ bytes")
    for name, count in figures.items():
        table.add_row(name.removesuffix("_bytes").replace("_", " "), gigabytes(count))
    table.add_row("limit", gigabytes(limits[0]))
    output.print(table)
    verdict = "fits" if fits else f"does not fit: {f'it fits with {remedy}' if remedy else 'no knob is enough'}"
    output.print(f"{verdict}.", highlight=False)
