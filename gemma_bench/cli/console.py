"""What the command line prints with: results to stdout, progress and errors to stderr."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from gemma_bench.core.files import Progress as Report

_PIPED_WIDTH = 160
"""Columns where no terminal says how many there are; rich would cut tables at 80."""

output = Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH)
errors = Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program instead of a table.")]


def print_json(data: Any) -> None:
    """Print JSON that a program can read, whatever the terminal's width."""
    typer.echo(json.dumps(data, indent=1, default=str, ensure_ascii=False))


@contextmanager
def progress_bar() -> Iterator[Report]:
    """Yield a progress callback that draws a bar for each thing it hears of; figures may follow its name after `: `."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
    )
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bars:

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield report
