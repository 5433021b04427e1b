"""`generate`: Gemma 3 continues prompts in the shell, a token per pass or several."""

import json as json_library
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from gemma_bench.cli.console import Json, errors, progress_bar
from gemma_bench.cli.models import Model
from gemma_bench.core.errors import BadInputError
from gemma_bench.core.files import read_text

BackendName = Annotated[str, typer.Option(help="torch or mlx.")]
Device = Annotated[
    str | None, typer.Option(help="cpu, mps or cuda (torch); cpu, metal or cuda (mlx). Default: the fastest.")
]
Precision = Annotated[
    str | None, typer.Option("--dtype", help="float32, bfloat16 or float16. Default: the files' own.")
]

_GAMMA = (
    "sbd: bound in nats of entropy and left [default: 0.1], the factor [default: 1] or the fixed count [default: 1]."
)


def generate(
    model: Model,
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", "-p", help="The prompt; several are answered one below the other.")
    ] = None,
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
    block_size: Annotated[int | None, typer.Option(help="sbd: tokens of a block. [default: 16]")] = None,
    sampler: Annotated[str | None, typer.Option(help="sbd: entropy, left, factor or fixed. [default: entropy]")] = None,
    gamma: Annotated[float | None, typer.Option(help=_GAMMA)] = None,
    trace: Annotated[bool, typer.Option(help="sbd: draw which token was fixed in which pass.")] = False,
    json: Json = False,
) -> None:
    """Continue prompts, streaming; set block decoding reads several as one batch."""
    from gemma_bench.cli import set_block
    from gemma_bench.models.generation import generate as continue_
    from gemma_bench.models.loading import load
    from gemma_bench.models.sampling import Greedy, Sampled
    from gemma_bench.models.tokenizer import prompt_tokens, stop_tokens

    texts, method = _prompts(prompt or [], prompt_file), set_block.method(decoder, block_size, sampler, gamma, trace)
    choice = Greedy() if temperature == 0 else Sampled(temperature, top_p, seed)
    with progress_bar() as progress:
        loaded = load(model, backend, device, dtype, progress)
    rows, stops = [prompt_tokens(loaded.tokenizer, text, chat=chat) for text in texts], stop_tokens(loaded.tokenizer)
    blocks = set_block.Blocks(loaded, rows, max_tokens, method, choice, stops) if method else None
    found = [
        _write(
            loaded.tokenizer, blocks.tokens(row) if blocks else continue_(loaded, ids, max_tokens, choice, stops), json
        )
        for row, ids in enumerate(rows)
    ]
    count, seconds = (sum(answer[name] for answer in found) for name in ("tokens_count", "duration_s"))
    if json:
        told = blocks.told(found, seconds) if blocks else found
        typer.echo(json_library.dumps(told if len(told) > 1 else told[0]))
        return
    passes = f", {blocks.summary()}" if blocks else ""
    where = f"{loaded.name} on {loaded.device} in {loaded.precision}"
    errors.print(f"{count} tokens in {seconds:.1f} s with {where}{passes}", style="dim", highlight=False)
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


def _prompts(prompts: list[str], file: Path | None) -> list[str]:
    if bool(prompts) == (file is not None):
        raise BadInputError("give one of --prompt and --prompt-file")
    texts = [read_text(file, "prompt file")] if file else prompts
    if not all(texts):
        raise BadInputError("the prompt is empty: give at least one character")
    return texts
