"""`gemma-bench train full|lora|relora|rank1|sbd` and `fuse`; options are the fields of the run and of its method."""

import inspect
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import exp
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic import BaseModel, ValidationError
from rich.markup import escape

from gemma_bench.cli.console import errors, output, progress_bar
from gemma_bench.core.errors import BadInputError, DamagedFileError, UnavailableError
from gemma_bench.core.files import Progress, read_text

if TYPE_CHECKING:
    from gemma_bench.measure.rank_watch import RankWatch
    from gemma_bench.training.run import TrainRecord

INTERRUPTED = 130
_CHECK = "Refuse, before weights are loaded, what would not fit in the free memory."


def train(context: typer.Context) -> None:
    """Fine-tune Gemma 3: full, lora, relora, rank1 or sbd; `gemma-bench train METHOD --help` lists its options."""
    _methods_app()(args=context.args, prog_name="gemma-bench train", standalone_mode=True)


def fuse(
    model: Annotated[str, typer.Option(help="The model that the adapter was trained beside.")],
    adapter_path: Annotated[Path, typer.Option(help="Folder of the adapter, in PEFT's form.")],
    output_path: Annotated[Path, typer.Option("--output", "-o", help="Where the model folder goes.")],
    dtype: Annotated[str | None, typer.Option(help="float32 or bfloat16. Default: that of the model.")] = None,
) -> None:
    """Write a model with its adapter merged: one folder that transformers and mlx_lm load."""
    from gemma_bench.models.loading import load
    from gemma_bench.models.weights import locate
    from gemma_bench.training.adapters import Base, check_base
    from gemma_bench.training.adapters import load as load_adapter
    from gemma_bench.training.fuse import fuse as fuse_into

    if output_path.exists():
        raise BadInputError(f"output {output_path} exists already")
    with progress_bar() as progress:
        source = locate(model, progress)
        if source.bits is not None:
            raise BadInputError(
                f"a model to fuse into must have whole weights, {source.path.name} has {source.bits} bits"
            )
        mask_token = check_base(adapter_path, Base(model=source.model_id, sha256=source.sha256))
        backend: Any = load(source, "torch", "cpu", "float32", progress)
        adapted = load_adapter(backend.model, adapter_path)
        folder = fuse_into(adapted, backend.folder, output_path, dtype=dtype, mask_token=mask_token, progress=progress)
    output.print(f"{folder.path}: {folder.precision}", highlight=False, soft_wrap=True)


def _methods_app() -> typer.Typer:
    """Build the sub-commands when they are needed: their options are declared by modules that import torch."""
    from gemma_bench.methods.rank_one import RankOne
    from gemma_bench.methods.relora import ReLoRA
    from gemma_bench.methods.set_block_tuning import SetBlockTuning
    from gemma_bench.training.method import Full, Lora

    app = typer.Typer(help="Fine-tune Gemma 3.", no_args_is_help=True, pretty_exceptions_enable=False)
    for method in (Full, Lora, ReLoRA, RankOne, SetBlockTuning):
        app.command(method.name, help=method.__doc__)(_command(method))
    return app


def _command(method: Any) -> Callable[..., None]:
    """Return a function whose options are the fields of paths, settings, readings and method, all of them optional.

    What the command line leaves out comes from the YAML file, and what that leaves out from the fields' defaults.
    """

    def run(config: Path | None, resume: bool, memory_check: bool, **given: Any) -> None:
        asked = {name: value for name, value in given.items() if value is not None}
        _run(method, {**(_yaml(config) if config else {}), **asked}, resume=resume, memory_check=memory_check)

    fixed = [
        _parameter("config", Annotated[Path | None, typer.Option(help="YAML file with any of these options.")], None),
        _parameter("resume", Annotated[bool, typer.Option(help="Go on from the newest checkpoint.")], False),
        _parameter("memory_check", Annotated[bool, typer.Option(help=_CHECK)], True),
    ]
    options = [_option(name, field) for part in _owners(method) for name, field in part.model_fields.items()]
    setattr(run, "__signature__", inspect.Signature([*options, *fixed]))  # noqa: B010
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in (*options, *fixed)}
    return run


def _owners(method: Any) -> tuple[type[BaseModel], ...]:
    """Return the models whose fields are the options."""
    from gemma_bench.measure.rank_watch import RankOptions
    from gemma_bench.training.run import Paths
    from gemma_bench.training.settings import RunSettings

    return Paths, RunSettings, RankOptions, method


_KINDS: dict[Any, Any] = {int: int, float: float, bool: bool, float | None: float, int | None: int, Path: Path}


def _option(name: str, field: Any) -> inspect.Parameter:
    flags = (f"--{name.replace('_', '-')}", "-o") if name == "output" else ()
    choices = f" One of {', '.join(get_args(field.annotation))}." if get_origin(field.annotation) is Literal else ""
    default = "" if field.is_required() or field.default is None else f" [default: {_shown(field.default)}]"
    option = typer.Option(*flags, help=escape(f"{field.description}{choices}{default}"), show_default=False)
    kind = _KINDS.get(field.annotation, str)
    return _parameter(name, Annotated[kind | None, option], None)


def _shown(default: Any) -> str:
    return ",".join(default) if isinstance(default, tuple) else str(default)


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        found = yaml.safe_load(read_text(path, "config file"))
    except yaml.YAMLError as error:
        raise DamagedFileError(f"config file {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise DamagedFileError(f"config file {path} must hold options by name, got {type(found).__name__}")
    return {str(name).replace("-", "_"): value for name, value in found.items()}


def _parts(method: Any, options: Mapping[str, Any]) -> list[Any]:
    """Sort options into the models that own them; refuse what none owns and what a field does not allow."""
    owners = _owners(method)
    known = {name for owner in owners for name in owner.model_fields}
    for name in options:
        if name not in known:
            raise BadInputError(
                f"unknown option {name!r} for {method.name}, expected one of {', '.join(sorted(known))}"
            )
    given = {**options}
    if isinstance(given.get("targets"), str):
        given["targets"] = tuple(target.strip() for target in given["targets"].split(","))
    try:
        return [owner(**{name: given[name] for name in owner.model_fields if name in given}) for owner in owners]
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).replace("_", "-")
        said = first["msg"][0].lower() + first["msg"][1:]
        got = "" if first["type"] == "missing" else f", got {first['input']!r}"
        raise BadInputError(f"--{name}: {said}{got}") from error


def _memory_check(device: str, progress: Progress, read_steps: int) -> Callable[[Any], None]:
    from gemma_bench.measure.training_fit import require_memory
    from gemma_bench.training.free_memory import free_bytes

    def check(plan: Any) -> None:
        progress("foreseeing memory", 0, 1)
        require_memory(replace(plan, read_steps=read_steps), free_bytes(device), "--max-seq-length")
        progress("foreseeing memory", 1, 1)

    return check


def _run(method: Any, options: Mapping[str, Any], *, resume: bool, memory_check: bool) -> None:
    from gemma_bench.core.records import anything, write_record
    from gemma_bench.measure.rank_watch import RankWatch
    from gemma_bench.training.log import Stop
    from gemma_bench.training.run import train as train_run

    paths, settings, ranks, chosen = _parts(method, options)
    interval = ranks.interval(settings.iters, has_adapters=chosen.has_adapters)
    watch = RankWatch(paths.output, interval) if interval else None
    stop = Stop()
    before = {number: signal.signal(number, stop.ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with progress_bar() as progress:
            admit = _memory_check(paths.device, progress, settings.iters if watch else 0) if memory_check else anything
            more: Any = {"resume": resume, "stop": stop, "watch": watch, "progress": progress, "admit": admit}
            record = train_run(paths, chosen, settings, **more)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    path = write_record(record, paths.output)
    _say(record)
    if watch and record.rank:
        _draw(watch, paths.output, f"{method.name}: {record.model_id}, {record.steps_count:,} steps")
    output.print(f"record: {path}", highlight=False, soft_wrap=True)
    if not record.is_complete:
        errors.print(f"stopped after step {record.steps_count}: go on with --resume", style="yellow", highlight=False)
        raise typer.Exit(INTERRUPTED)


def _say(record: "TrainRecord") -> None:
    """Print what a run came to."""
    for split, cut, rows in (
        ("train", record.cut_rows_count, record.train_rows_count),
        ("valid", record.valid_cut_rows_count, record.valid_rows_count),
        ("test", record.test_cut_rows_count, record.test_rows_count),
    ):
        if cut:
            errors.print(f"{split}: {cut:,} of {rows:,} rows were too long and cut", style="yellow")
    for split, nats in (("valid", record.valid_nats), ("test", record.test_nats)):
        if nats is not None:
            output.print(f"{split}: {nats:.4f} nats per token, perplexity {exp(nats):.4g}", highlight=False)
    if record.rank:
        since = f" since step {record.rank_since_step:,}" if record.rank_since_step else ""
        output.print(
            f"rank of the change{since}: numeric {record.rank[-1]:.1f}, effective {record.effective_rank[-1]:.1f}, "
            f"stable {record.stable_rank[-1]:.1f}, means of {record.ranked_matrices_count} matrices",
            highlight=False,
            soft_wrap=True,
        )


def _draw(watch: "RankWatch", folder: Path, title: str) -> None:
    """Draw the readings into `rank.png`, if there is matplotlib."""
    from gemma_bench.report.figures import save
    from gemma_bench.report.rank_pictures import run_picture

    try:
        save(run_picture(watch.readings, title), folder / "rank.png")
    except UnavailableError as error:
        errors.print(f"no picture of the ranks: {error}", style="yellow", markup=False, highlight=False)
    else:
        output.print(f"picture: {folder / 'rank.png'}", highlight=False, soft_wrap=True)
