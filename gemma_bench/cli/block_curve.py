"""`gemma-bench analyze blocks`: what recorded runs of set block decoding kept of quality over the passes they saved."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from gemma_bench.cli.console import Json, output, print_json
from gemma_bench.cli.set_block import pattern_of, visible
from gemma_bench.core.errors import BadInputError
from gemma_bench.core.intervals import Interval

if TYPE_CHECKING:
    from gemma_bench.experiments.set_block_record import AnyDecodingRecord, Way

EXPERIMENTS = ("set_block_speedup", "set_block_gemma")
_WIDTH, _HEIGHT = 60, 11


def blocks(
    results: Annotated[Path, typer.Option("--results", help="The folder of the records.")] = Path("results"),
    json: Json = False,
) -> None:
    """Draw accuracy over tokens per pass for each family of the newest records, and which pass fixed which token."""
    from gemma_bench.experiments.set_block_record import newest_of_families

    records = newest_of_families(results, EXPERIMENTS)
    if not records:
        raise BadInputError(f"{results} holds no record: make one with `gemma-bench run {EXPERIMENTS[0]}`")
    if json:
        print_json([_plain(way) for record in records for way in record.ways()])
        return
    for record in records:
        _show(record)


def _plain(way: "Way") -> dict[str, Any]:
    return {**vars(way), "right": way.right._asdict(), "tokens_per_pass": way.tokens_per_pass._asdict()}


def _show(record: "AnyDecodingRecord") -> None:
    for family in dict.fromkeys(record.row_family):
        ways = [way for way in record.ways() if way.family == family]
        columns = ("", "model", "decoder", "tokens per pass", "right, %", "nats")
        table = Table(*columns, title=f"{family}: {record.model_id}")
        for mark, way in _marked(ways):
            table.add_row(
                mark, way.model, str(way), _interval(way.tokens_per_pass), _interval(way.right, 100), f"{way.nats:.2f}"
            )
        output.print(table)
        for line in curve_lines(ways):
            output.print(line, markup=False, highlight=False)
    for row, prompt, words, passes in zip(
        record.pattern_row, record.pattern_prompt, record.pattern_words, record.pattern_fixed_in_pass, strict=True
    ):
        output.print(f"\n{visible(prompt)}", markup=False, highlight=False)
        for pattern in pattern_of(words, passes, record.row_block_tokens[row]):
            output.print(pattern)


def _marked(ways: Sequence["Way"]) -> Iterator[tuple[str, "Way"]]:
    yield from zip(map(chr, range(ord("a"), ord("a") + len(ways))), ways, strict=True)


def _interval(found: Interval, factor: float = 1) -> str:
    value, low, high = (factor * figure for figure in found)
    return f"{value:.2f} ({low:.2f} to {high:.2f})"


def curve_lines(ways: Sequence["Way"], width: int = _WIDTH, height: int = _HEIGHT) -> Iterator[str]:
    """Yield a plot of the share of right answers over tokens per pass; letters are those of the table's lines.

    Where several fall together the first one shows.
    """
    most = max(way.tokens_per_pass.value for way in ways)
    grid = [[" "] * width for _ in range(height)]
    for mark, way in reversed(list(_marked(ways))):
        column = round((width - 1) * way.tokens_per_pass.value / most)
        grid[round((height - 1) * (1 - way.right.value))][column] = mark
    for number, line in enumerate(grid):
        yield f"{100 - 100 * number / (height - 1):>4.0f} % │{''.join(line)}".rstrip()
    yield f"       └{'─' * width}"
    yield f"        0{f'{most:.1f} tokens per pass':>{width - 1}}"
