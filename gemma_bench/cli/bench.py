"""`gemma-bench bench`: how fast, how much of what the memory allows, and whether the figure is evidence."""

from math import inf
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from gemma_bench.cli.console import Json, errors, output, print_json, progress_bar
from gemma_bench.core.errors import BadInputError
from gemma_bench.core.known_machines import known_machine
from gemma_bench.core.units import gigabytes, number

INTERRUPTED = 130
WHOLE_BITS = 16

LEAST_FOR_AN_INTERVAL = 5
"""A bootstrap of fewer holds the true median much less often than in 95 of 100 cases: of 3 in 72, of 5 in 93."""


def bench(
    model: Annotated[str, typer.Argument(help="270m, 12b-it, 270m-4bit, tiny, or a folder.")],
    backend: Annotated[str, typer.Option(help="torch or mlx.")] = "torch",
    bits: Annotated[
        int, typer.Option(help="Take the conversion to this many bits; 16 is the whole model.")
    ] = WHOLE_BITS,
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
    from gemma_bench.measure.fit import check_bits

    least = {"--prompt-tokens": (prompt_tokens, 1), "--generation-tokens": (generation_tokens, 2)}
    least |= {"--batch-size": (batch_size, 1), "--num-trials": (num_trials, 1), "--depth": (depth, 0)}
    for option, (given, smallest) in least.items():
        if given < smallest:
            raise BadInputError(f"{option} must be at least {smallest}, got {given}")
    if not 0 <= delay < inf:
        raise BadInputError(f"--delay must be at least 0 seconds, got {delay:g}")
    check_bits(bits)
    chosen = model if bits == WHOLE_BITS else f"{model}-{bits}bit"
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
    from gemma_bench.experiments.speed import Config, measure

    with progress_bar() as progress:
        found = measure(Config(**options), progress=progress)
    if json:
        print_json(found.model_dump(mode="json"))
    else:
        _show(found.model_dump())
    path = write_record(found, results)
    if not json:
        output.print(f"record: {path}", highlight=False, soft_wrap=True)
    _warn(found.model_dump())
    if not found.is_complete:
        raise typer.Exit(INTERRUPTED)


def _warn(found: dict[str, Any]) -> None:
    for rule in found["broken_rules"]:
        errors.print(f"invalid: {rule}", style="yellow", highlight=False, soft_wrap=True)
    if not found["output_is_correct"]:
        gap = found["largest_gap_nats"]
        seen = "no finite logits" if gap is None else f"a token {number(gap)} nats behind the best"
        errors.print(f"wrong output: {seen}, against {found['reference']}", style="red", highlight=False)
    if not found["is_complete"]:
        errors.print(f"interrupted after {len(found['samples'])} repetitions", style="yellow", highlight=False)


def _show(found: dict[str, Any]) -> None:
    table = Table("figure", "value", title=f"{found['model_id']} with {found['backend']} on {found['device']}")
    at = f" @ d{found['depth_count_tokens']}" + (f" × {size}" if (size := found["batch_size_count"]) > 1 else "")
    table.add_row(f"tg{found['new_count_tokens']}{at}", _rate(found, "decode"))
    table.add_row("  as mlx_lm counts", f"{number(found['mlx_lm_decode_tokens_per_s'])} tok/s")
    bandwidth = f"{found['bandwidth_bytes_per_s'] / 1e9:.1f} GB/s"
    table.add_row("  share of the ceiling", f"{found['bandwidth_share_percent']:.2g} % of {bandwidth} measured here")
    table.add_row(f"pp{found['prompt_count_tokens']}{at}", _rate(found, "prefill"))
    table.add_row("time to first token", _milliseconds(found["first_token_s"]))
    kinds = ("median", "p90", "p95", "p99")
    times = ", ".join(f"{kind} {_milliseconds(found[f'token_{kind}_s'])}" for kind in kinds)
    table.add_row("time per token", times)
    for phase in ("load", "prefill", "decode"):
        table.add_row(f"memory, {phase}", _memory(found, phase))
    predicted, limit = gigabytes(found["predicted_peak_bytes"]), gigabytes(found["memory_limit_bytes"])
    table.add_row("  predicted peak, limit", f"live {predicted}, limit {limit}")
    energy = found["energy_per_token_j"]
    table.add_row("energy", "not told here" if energy is None else f"{number(energy)} J per token, prefill included")
    checked = f"{found['same_tokens_ratio']:.0%} of {found['checked_count_tokens']} tokens are the choices of"
    table.add_row("output", f"{'correct' if found['output_is_correct'] else 'WRONG'}, {checked} {found['reference']}")
    rules = found["broken_rules"]
    table.add_row("evidence", "valid" if not rules else "invalid: " + "; ".join(rules))
    output.print(table)


def _rate(found: dict[str, Any], what: str) -> str:
    """Write a rate with its interval; a few repetitions give the ends of what was seen, which is no interval."""
    value, low, high = (number(found[f"{what}{end}_tokens_per_s"]) for end in ("", "_low", "_high"))
    if (count := len(found["samples"])) < LEAST_FOR_AN_INTERVAL:
        return f"{value} tok/s (no interval from {count} of at least {LEAST_FOR_AN_INTERVAL} repetitions)"
    return f"{value} [{low}, {high}] tok/s"


def _milliseconds(seconds: float | None) -> str:
    return "n/a (too few tokens)" if seconds is None else f"{number(1000 * seconds)} ms"


def _memory(found: dict[str, Any], phase: str) -> str:
    """Write a phase's live tensors, allocator's cache and footprint; what a library does not tell is a dash."""
    parts = (("live", "live"), ("cached", "allocator_cache"), ("process", "footprint"))
    sizes = ((label, found[f"{phase}_{name}_bytes"]) for label, name in parts)
    return ", ".join(f"{label} {'–' if size is None else gigabytes(size)}" for label, size in sizes)


def _predict(model: str, machine: str | None, bits: int, json: bool) -> None:
    from gemma_bench.measure.cost import expected_tokens_per_s
    from gemma_bench.measure.fit import need
    from gemma_bench.models.weights import size_of

    if machine is None:
        raise BadInputError("--predict needs --machine, for example --machine m3ultra-80c-256gb")
    known, size = known_machine(machine), size_of(model)
    weights = need(size, 1, bits).weights_bytes
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
        f"{model} at {bits} bits on {machine}: at most {number(round(ceiling, 1))} tok/s at batch size 1 "
        f"({gigabytes(weights)} a token); {number(round(low, 1))} to {number(round(high, 1))} tok/s are to be expected",
        highlight=False,
    )
