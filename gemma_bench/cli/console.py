"""What the command line prints with: results to stdout, progress and errors to stderr."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from gemma_bench.core.files import Progress as Report

_PIPED_WIDTH = 160
"""Columns where no terminal says how many there are; rich would cut tables at 80."""

_LINE_EVERY_S = 30

output = Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH)
errors = Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program instead of a table.")]


def print_json(data: Any) -> None:
    """Print JSON that a program can read, whatever the terminal's width."""
    typer.echo(json.dumps(data, indent=1, default=str, ensure_ascii=False))


@contextmanager
def progress_bar() -> Iterator[Report]:
    """Yield a progress callback that draws a bar for each thing it hears of; figures may follow its name after `: `.

    Where no terminal is there to draw on, as in a log file, a plain line comes now and then.
    """
    if not errors.is_terminal:
        yield plain_lines()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
    )
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=errors, transient=True) as bars:

        def report(what: str, done: int, total: int) -> None:
            name = what.partition(": ")[0]
            if name not in tasks:
                tasks[name] = bars.add_task(what, total=total)
            bars.update(tasks[name], description=what, completed=done, total=total)

        yield report


def plain_lines() -> Report:
    """Return a progress callback that prints a line per thing every half minute, with the time left at its pace."""
    began: dict[str, tuple[float, int]] = {}
    told_s: dict[str, float] = {}

    def report(what: str, done: int, total: int) -> None:
        name, now_s = what.partition(": ")[0], time.monotonic()
        began_s, first = began.setdefault(name, (now_s, done))
        if now_s - told_s.setdefault(name, now_s) < _LINE_EVERY_S:
            return
        told_s[name] = now_s
        left = ""
        if done > first:
            seconds = round((now_s - began_s) / (done - first) * (total - done))
            left = f", {timedelta(seconds=seconds)} left"
        share = f" ({100 * done / total:.0f} %)" if total else ""
        errors.print(f"{what}, {done:,} of {total:,}{share}{left}", markup=False, highlight=False, soft_wrap=True)

    return report
