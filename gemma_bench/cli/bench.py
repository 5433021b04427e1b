"""`gemma-bench bench`: how fast, how much of what the memory allows, and whether the figure is evidence."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from gemma_bench.cli.console import Json, errors, output, print_json, progress_bar
from gemma_bench.core.errors import BadInputError
from gemma_bench.core.known_machines import known_machine
from gemma_bench.core.units import gigabytes, number

INTERRUPTED = 130


def bench(
    model: Annotated[str, typer.Argument(help="270m, 12b-it, 270m-4bit, tiny, or a folder.")],
    backend: Annotated[str, typer.Option(help="torch or mlx.")] = "torch",
    bits: Annotated[int | None, typer.Option(help="Take the conversion to this many bits.")] = None,
    prompt_tokens: Annotated[int, typer.Option("--prompt-tokens", "-p", help="Length of the prompt.")] = 512,
    generation_tokens: Annotated[int, typer.Option("--generation-tokens", "-g", help="Tokens to write.")] = 128,
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", help="Sequences at once.")] = 1,
    num_trials: Annotated[int, typer.Option("--num-trials", "-n", help="Repetitions, after a warm-up.")] = 5,
    depth: Annotated[int, typer.Option("--depth", "-d", help="Tokens in the cache before the prompt.")] = 0,
    delay: Annotated[float, typer.Option(help="Seconds between repetitions, to cool down.")] = 0.0,
    device: Annotated[str | None, typer.Option(help="Default: the fastest here.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Default: that of the files.")] = None,
    machine: Annotated[str | None, typer.Option(help="With --predict: another machine than this.")] = None,
    predict: Annotated[bool, typer.Option(help="Compute what a machine can reach; run nothing.")] = False,
    record: Annotated[bool, typer.Option(help="Write the record under results/ instead of build/.")] = False,
    json: Json = False,
) -> None:
    """Measure prefill and decode; EOS is ignored and tokenising left out."""
    chosen = model if bits in (None, 16) else f"{model}-{bits}bit"
    if predict:
        _predict(model, machine, bits, json)
    elif machine is not None:
        raise BadInputError("--machine names a machine to --predict for; a measurement is always of this one")
    else:
        workload = {"prompt_tokens": prompt_tokens, "new_tokens": generation_tokens, "batch_size": batch_size}
        repeats = {"depth_tokens": depth, "trials": num_trials, "delay_s": delay}
        where = {"model": chosen, "backend": backend, "device": device, "dtype": dtype}
        _measure({**where, **workload, **repeats}, Path("results" if record else "build"), json)


def _measure(options: dict[str, Any], results: Path, json: bool) -> None:
    from gemma_bench.core.records import write_record
    from gemma_bench.experiments.speed import Config, run
    from gemma_bench.models.loading import load

    config = Config(**options)
    with progress_bar() as progress:
        loaded = load(config.model, config.backend, config.device, config.dtype, progress)
        found = run(loaded, config, progress=progress)
    path = write_record(found, results)
    if json:
        print_json(found.model_dump(mode="json"))
    else:
        _show(found.model_dump())
        output.print(f"record: {path}", highlight=False, soft_wrap=True)
    for rule in found.broken_rules:
        errors.print(f"invalid: {rule}", style="yellow", highlight=False)
    if not found.is_complete:
        raise typer.Exit(INTERRUPTED)


def _show(found: dict[str, Any]) -> None:
    table = Table("figure", "value", title=f"{found['model_id']} with {found['backend']} on {found['device']}")
    low, high = number(found["decode_low_tokens_per_s"]), number(found["decode_high_tokens_per_s"])
    decode = f"{number(found['decode_tokens_per_s'])} [{low}, {high}] tok/s"
    table.add_row(f"tg{found['new_count_tokens']} @ d{found['depth_count_tokens']}", decode)
    table.add_row("  as mlx_lm counts", f"{number(found['mlx_lm_decode_tokens_per_s'])} tok/s")
    bandwidth = f"{found['bandwidth_bytes_per_s'] / 1e9:.1f} GB/s"
    table.add_row("  share of the ceiling", f"{found['bandwidth_share_percent']:.0f} % of {bandwidth} measured here")
    table.add_row(f"pp{found['prompt_count_tokens']}", f"{number(found['prefill_tokens_per_s'])} tok/s")
    table.add_row("time to first token", f"{number(found['first_token_s'])} s")
    table.add_row("weights", gigabytes(found["weights_bytes"]))
    output.print(table)


def _predict(model: str, machine: str | None, bits: int | None, json: bool) -> None:
    from gemma_bench.measure.cost import expected_tokens_per_s
    from gemma_bench.models.weights import size_of

    if machine is None:
        raise BadInputError("--predict needs --machine, for example --machine m3ultra-80c-256gb")
    known, size = known_machine(machine), size_of(model)
    weights = size.weight_bytes(16) if bits in (None, 16) else size.weight_bytes(bits, 64)
    low, high, ceiling = expected_tokens_per_s(weights, known.bandwidth_bytes_per_s)
    found = {
        "model": model,
        "machine": machine,
        "weights_bytes": weights,
        "ceiling_tokens_per_s": ceiling,
        "expected_low_tokens_per_s": low,
        "expected_high_tokens_per_s": high,
    }
    if json:
        print_json(found)
        return
    output.print(
        f"{model} at {bits or 16} bits on {machine}: at most {number(round(ceiling, 1))} tok/s at batch size 1 "
        f"({gigabytes(weights)} a token); {number(round(low, 1))} to {number(round(high, 1))} tok/s are to be expected",
        highlight=False,
    )
