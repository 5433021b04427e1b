"""The command line: verbs, and one place where errors become a sentence and an exit code."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from gemma_bench.cli import analyze, bench, claims, experiments, generate, machine, models, train
from gemma_bench.cli.console import errors
from gemma_bench.core.errors import GemmaBenchError, UnavailableError

_NO_MEMORY = ("can't allocate memory", "out of memory")
"""What torch says on CPU and GPU."""

_KILLED = "terminated abruptly"
"""What a pool of processes says that has lost one."""

USAGE, INTERRUPTED = 2, 130

app = typer.Typer(
    help="Research claims about Gemma 3, judged on this machine; and the library under them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command("check")(machine.check)
app.command("models")(models.models)
app.command("download")(models.download)
app.command("convert")(models.convert)
app.command("generate")(generate.generate)
app.command("bench")(bench.bench)
app.command("experiments")(experiments.menu)
app.command("run")(experiments.run)
app.command(
    "train",
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False},
)(train.train)
app.command("fuse")(train.fuse)
app.add_typer(analyze.app, name="analyze")
app.add_typer(claims.app, name="claims")
app.command("ledger")(claims.ledger)
app.command("report")(claims.report)


def main() -> None:
    """Run the command line; an error that a user can act on is one sentence, never a traceback."""
    try:
        with _memory_explained():
            app()
    except GemmaBenchError as error:
        errors.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(USAGE)
    except KeyboardInterrupt:
        errors.print("interrupted", style="red")
        sys.exit(INTERRUPTED)


@contextmanager
def _memory_explained() -> Iterator[None]:
    """Turn what libraries raise where memory ran out into an error of ours."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        said = " ".join(str(error).split())
        if _KILLED in said:
            raise UnavailableError(
                "process", "a process of the run was ended from outside, as a system does where memory is short"
            ) from error
        if not isinstance(error, MemoryError) and not any(words in said for words in _NO_MEMORY):
            raise
        raise UnavailableError("memory", f"memory ran out: {said or 'Python could not allocate an object'}") from error
