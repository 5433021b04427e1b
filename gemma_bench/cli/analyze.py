"""`gemma-bench analyze memory`: what a model takes, whether it fits, and what would make it fit."""

from typing import Annotated, Any

import typer

from gemma_bench.cli.block_curve import blocks
from gemma_bench.cli.capacity import capacity
from gemma_bench.cli.console import Json, output, print_json
from gemma_bench.cli.limits import limits_of, shown, verdict
from gemma_bench.core.errors import BadInputError
from gemma_bench.core.units import gigabytes

app = typer.Typer(help="Compute what needs no run: memory, capacity, curves of recorded runs.", no_args_is_help=True)


@app.callback()
def analyze() -> None:
    """Compute what needs no run."""


app.command("capacity")(capacity)
app.command("blocks")(blocks)


@app.command("memory")
def memory(
    asked: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            help="270m, 1b, 4b, 12b, 27b (-it for chat) or tiny; with --method the shapes of ReLoRA's paper too, "
            "llama-60m, 130m, 250m, 350m, 1.3b."
        ),
    ],
    context: Annotated[int, typer.Option("--context", "-c", help="Tokens of prompt and answer.")] = 8192,
    bits: Annotated[int, typer.Option(help="16, or MLX's 8, 6, 5, 4, 3, 2 in groups of 64.")] = 16,
    ram: Annotated[
        float | None, typer.Option(help="Memory of a Mac as sold: 256 is 256 GiB. Default: this machine.")
    ] = None,
    method: Annotated[str | None, typer.Option(help="Of a training instead: full, lora, relora or rank1.")] = None,
    recipe: Annotated[str, typer.Option(help="With --method: as `train` does it, or as published.")] = "train",
    rank: Annotated[int | None, typer.Option(help="With --method lora or relora: the adapters' rank; 16.")] = None,
    rule: Annotated[str | None, typer.Option(help="With --method rank1: the rule that aims updates.")] = None,
    embeddings: Annotated[
        bool | None, typer.Option("--embeddings/--no-embeddings", help="With --method full or relora: train it too.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="With --method: rows per step.")] = 1,
    length: Annotated[int | None, typer.Option(help="With --method: tokens per row; 1024, or the context.")] = None,
    dtype: Annotated[str, typer.Option(help="With --method: bfloat16 or float32, as `train --dtype`.")] = "bfloat16",
    checkpointing: Annotated[bool, typer.Option(help="With --method: recompute activations.")] = False,
    adapter_dtype: Annotated[str | None, typer.Option(help="With --recipe published: of adapters alone.")] = None,
    exact_merges: Annotated[
        bool | None,
        typer.Option("--exact-merges/--no-exact-merges", help="With --recipe published: remainders beside weights."),
    ] = None,
    json: Json = False,
) -> None:
    """Add weights, KV cache and activations up, or forecast a training step; compare with what a GPU may use."""
    _refuse_unused(asked, method is not None)
    if method is not None:
        from gemma_bench.cli.training_memory import plan_of, show

        of_method = {"rank": rank, "rule": rule, "embeddings": embeddings}
        knobs = {"batch_size": batch_size, "length": length, "dtype": dtype, "checkpointing": checkpointing}
        merges = {"adapter_dtype": adapter_dtype, "exact_merges": exact_merges}
        plan = plan_of(model, method, recipe, of_method, {**knobs, **merges})
        show(model, plan, recipe, limits_of(ram), ram, json)
        return
    found = _of_use(model, context, bits, ram)
    if json:
        print_json(found)
        return
    _show(found, ram)


_USE = ("context", "bits")
_TRAINING = (
    "recipe",
    "rank",
    "rule",
    "embeddings",
    "batch_size",
    "length",
    "dtype",
    "checkpointing",
    "adapter_dtype",
    "exact_merges",
)


def _refuse_unused(asked: typer.Context, is_training: bool) -> None:
    """Refuse what would change nothing: a step has no context, and a model in use has no rank."""
    given = [name for name in (_USE if is_training else _TRAINING) if _is_given(asked, name)]
    if given:
        option = f"--{given[0].replace('_', '-')}"
        raise BadInputError(
            f"{option} is {'not for a training' if is_training else 'only for a training'}: leave out "
            f"{option} or {'--method' if is_training else 'give --method'}"
        )


def _is_given(asked: typer.Context, name: str) -> bool:
    source = asked.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _of_use(model: str, context: int, bits: int, ram: float | None) -> dict[str, Any]:
    """Add up what a model takes that is used."""
    from gemma_bench.measure.fit import longest_context, most_bits, need
    from gemma_bench.models.llama import LLAMAS
    from gemma_bench.models.weights import MODEL_NAMES, size_of

    if model in LLAMAS:
        known = f"expected one of {', '.join(MODEL_NAMES)}; {', '.join(LLAMAS)} are known with --method"
        raise BadInputError(f"unknown model {model!r}, {known}")
    size, (low, high) = size_of(model), limits_of(ram)
    needed = need(size, context, bits)
    fits = needed.total_bytes <= low
    return {
        "model": model,
        "bits": bits,
        "context_tokens": context,
        "weights_bytes": needed.weights_bytes,
        "kv_cache_bytes": needed.cache_bytes,
        "activations_bytes": needed.activations_bytes,
        "total_bytes": needed.total_bytes,
        "limit_low_bytes": low,
        "limit_high_bytes": high,
        "it_fits": fits,
        "longest_context_tokens": longest_context(size, bits, low),
        "most_bits": most_bits(size, context, low, bits),
    }


def _show(found: dict[str, Any], ram: float | None) -> None:
    from rich.table import Table

    table = Table(title=f"{found['model']} in {found['bits']} bits, {found['context_tokens']:,} tokens; GB = 10⁹ bytes")
    table.add_column("what")
    table.add_column("bytes", justify="right")
    for name in ("weights", "kv_cache", "activations", "total"):
        table.add_row(name.replace("_", " "), gigabytes(found[f"{name}_bytes"]))
    limits = found["limit_low_bytes"], found["limit_high_bytes"]
    table.add_row("limit", shown(limits))
    output.print(table)
    output.print(verdict(found["total_bytes"], limits, ram, _remedy(found)), highlight=False, soft_wrap=True)


def _remedy(found: dict[str, Any]) -> str:
    """Say which knobs would make it fit."""
    knobs = []
    if found["longest_context_tokens"] is not None:
        knobs.append(f"--context {found['longest_context_tokens']}")
    if found["most_bits"] is not None:
        knobs.append(f"--bits {found['most_bits']}")
    return f"it fits with {' or with '.join(knobs)}" if knobs else "neither fewer bits nor a shorter context is enough"
