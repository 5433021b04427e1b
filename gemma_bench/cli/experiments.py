"""`experiments` and `run`: the menu of questions, and one of them asked on this machine."""

import json as text
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer
from rich.prompt import Prompt
from rich.table import Table

from gemma_bench.cli.console import Json, errors, output, print_json, progress_bar
from gemma_bench.core.errors import BadInputError, DamagedFileError, InvalidRunError
from gemma_bench.core.files import Progress, explained, read_text, write_text
from gemma_bench.core.records import Record, clean_records, code_here, write_record
from gemma_bench.experiments.index import Experiment, experiments, find

_STATE, _BEGAN = Path("build/state"), "request.json"
_LINE_EVERY_S = 20

Results = Annotated[Path, typer.Option("--results", help="The folder of the records.")]


def menu(results: Results = Path("results"), json: Json = False) -> None:
    """List the experiments: the question, the scales with their minutes, the newest record; in a terminal run one."""
    rows = [_row(experiment, results) for experiment in experiments().values()]
    if json:
        print_json(rows)
        return
    table = Table("name", "question", "scales", "newest record")
    for row in rows:
        scales = (_minutes(scale, minutes) for scale, minutes in row["minutes"].items())
        table.add_row(row["name"], row["question"], "\n".join(scales), row["newest"] or "none")
    output.print(table)
    if _is_asked():
        _offer(results)


def _is_asked() -> bool:
    """Tell whether somebody is there to choose."""
    return output.is_terminal and sys.stdin.isatty()


def _offer(results: Path) -> None:
    """Ask for an experiment and a scale, with its minutes, and run that; an empty answer runs none."""
    name = Prompt.ask(
        "run which, or none",
        choices=["", *experiments()],
        default="",
        show_choices=False,
        show_default=False,
        console=output,
    )
    if not name:
        return
    minutes = find(name).minutes
    output.print(", ".join(_minutes(*scale) for scale in minutes.items()), highlight=False)
    scale = Prompt.ask("at which scale", choices=list(minutes), default=next(iter(minutes)), console=output)
    run(name, scale, results=results)


def _row(experiment: Experiment, results: Path) -> dict[str, Any]:
    path, newest = next(clean_records(results, experiment.name), (None, None))
    return {
        "name": experiment.name,
        "question": experiment.question,
        "minutes": experiment.minutes,
        "newest_record": path and path.as_posix(),
        "newest": newest and f"{newest.date_utc[:10]}, {newest.scale}, {newest.machine_id}",
    }


def _minutes(scale: str, minutes: float | None) -> str:
    return scale if minutes is None else f"{scale} {minutes:g} min"


def run(
    name: Annotated[str, typer.Argument(help="An experiment; `gemma-bench experiments` lists them.")],
    scale: Annotated[str, typer.Option(help="fixture, study, long or full.")] = "fixture",
    device: Annotated[str | None, typer.Option(help="cpu, mps or cuda, where the experiment can use it.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on where an interrupted run of the same scale stopped.")] = False,
    results: Results = Path("results"),
) -> None:
    """Run an experiment and write its records; Ctrl-C keeps those that are finished."""
    experiment = find(name)
    experiment.check_scale(scale)
    _check_writable(results)
    code, module = code_here(), experiment.module()
    config = getattr(module, scale.upper())
    options = _device(experiment, module, device)
    request = {
        "version": module.VERSION,
        "code": f"{code[0]}{'' if code[1] else ' and changes'}",
        "device": options.get("device", _default_device(module)),
        "configuration": text.loads(config.model_dump_json()),
    }
    state = _state(experiment, module, scale, request, resume)
    if state is not None:
        options["state"] = state
    minutes = experiment.minutes[scale]
    output.print(f"{name}, {scale}: {'no estimate' if minutes is None else f'about {minutes:g} minutes'}")
    with _tidy(state), _ended_like_interrupted(), _progress() as progress:
        _write(module.run(config, scale=scale, progress=progress, **options), results, code)


@contextmanager
def _tidy(state: Path | None) -> Iterator[None]:
    """Remove the state of a run that is over, is no evidence, or has not begun: there is nothing to go on with."""
    is_over = False
    try:
        yield
        is_over = True
    except InvalidRunError:
        is_over = True
        raise
    finally:
        if state is not None and (
            is_over or not any(path.is_file() for path in state.rglob("*") if path.name != _BEGAN)
        ):
            shutil.rmtree(state)


@contextmanager
def _ended_like_interrupted() -> Iterator[None]:
    """Let SIGTERM stop a run as Ctrl-C does, so that its processes end with it."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _write(records: Iterator[Record], results: Path, code: tuple[str | None, bool]) -> None:
    """Write each record as soon as it is there, as made by the code that was there when the run began."""
    count, (commit, is_clean) = 0, code
    try:
        for record in records:
            made_by = {"commit": commit, "commit_is_clean": is_clean and record.commit_is_clean}
            path = write_record(record.model_copy(update=made_by), results)
            count += 1
            output.print(f"record: {path}", highlight=False, soft_wrap=True)
            for rule in getattr(record, "broken_rules", ()):
                errors.print(f"invalid: {rule}", style="yellow", highlight=False, soft_wrap=True)
            if not getattr(record, "is_complete", True):
                errors.print("incomplete: no evidence of the whole", style="yellow", highlight=False)
    except KeyboardInterrupt:
        errors.print(f"{count} finished records are kept", style="yellow", highlight=False)
        raise


def _check_writable(results: Path) -> None:
    """Find out before the work that its records can be written."""
    folder = results / "records"
    probe = folder / ".probe"
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()


def _device(experiment: Experiment, module: ModuleType, device: str | None) -> dict[str, Any]:
    """Return the device as an option of `run`, checked before anything is built there."""
    if device is None:
        return {}
    if "device" not in signature(module.run).parameters:
        raise BadInputError(f"{experiment.name} chooses its devices itself: leave out --device")
    from gemma_bench.models.torch_backend import checked_device

    return {"device": checked_device(device)}


def _default_device(module: ModuleType) -> str | None:
    parameters = signature(module.run).parameters
    return parameters["device"].default if "device" in parameters else None


def _state(
    experiment: Experiment, module: ModuleType, scale: str, request: dict[str, Any], resume: bool
) -> Path | None:
    """Return the folder where a long experiment keeps what it has done, or `None` if it keeps nothing.

    A request that is not the one that began there, or of other code, is refused: half of each would be neither.
    """
    if "state" not in signature(module.run).parameters:
        if resume:
            raise BadInputError(f"{experiment.name} keeps no state to resume from: run it without --resume")
        return None
    folder = _STATE / f"{experiment.name}-{scale}"
    began = folder / _BEGAN
    if began.exists():
        if not resume:
            raise BadInputError(f"{folder} holds an interrupted run: go on with --resume, or remove the folder")
        try:
            before = text.loads(read_text(began, "state"))
        except ValueError as error:
            raise DamagedFileError(f"state {began} is not JSON: remove {folder} to start anew") from error
        if other := _difference(before, request):
            raise BadInputError(f"{folder} holds a run of another {other}: remove the folder to start anew")
    else:
        write_text(began, text.dumps(request))
    return folder


def _difference(before: Any, now: dict[str, Any]) -> str | None:
    """Name the first thing that two requests differ in: `device (cpu, not cuda)`; nothing where they are the same."""
    if not isinstance(before, dict) or set(before) != set(now):
        return "layout"
    for name in ("version", "code", "device"):
        if before[name] != now[name]:
            return f"{name} ({before[name]}, not {now[name]})"
    there, here = before["configuration"], now["configuration"]
    fields = [name for name in here if there.get(name) != here[name]] + [name for name in there if name not in here]
    return f"configuration ({', '.join(fields)})" if fields else None


@contextmanager
def _progress() -> Iterator[Progress]:
    """Draw a bar in a terminal; in a log write a line now and then."""
    if errors.is_terminal:
        with progress_bar() as report:
            yield report
        return
    yield _lines(time.monotonic)


def _lines(clock: Callable[[], float]) -> Progress:
    said_s: dict[str, float] = {}

    def report(what: str, done: int, total: int) -> None:
        if done == total or clock() - said_s.get(what, -_LINE_EVERY_S) >= _LINE_EVERY_S:
            said_s[what] = clock()
            sys.stderr.write(f"{what} {done}/{total}\n")

    return report
