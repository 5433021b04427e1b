"""One training run from folders to folders: what the command line starts, and what can be resumed."""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field
from transformers import TrainerCallback

from gemma_bench.core.errors import BadInputError
from gemma_bench.core.files import Progress, explained, sha256, silent
from gemma_bench.core.records import Record, anything
from gemma_bench.models.backend import Backend, subject
from gemma_bench.models.folder import ModelFolder
from gemma_bench.models.loading import load
from gemma_bench.models.tokenizer import check_mask_token, load_tokenizer
from gemma_bench.models.torch_backend import checked_device
from gemma_bench.models.weights import locate
from gemma_bench.training import adapters, checkpoint
from gemma_bench.training.data import Examples, Reading, split_path
from gemma_bench.training.fuse import fuse
from gemma_bench.training.log import Bar, Log, Stop, to_both
from gemma_bench.training.method import Method, Prepared
from gemma_bench.training.plan import Plan
from gemma_bench.training.settings import Settings
from gemma_bench.training.trainer import Trainer
from gemma_bench.training.watching import Watch

VERSION = 1


class Paths(BaseModel):
    """What is trained on what, and where the results go."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(description="270m, 1b, tiny, …, or a model folder.")
    data: Path = Field(description="Folder with train.jsonl and, if wanted, valid.jsonl and test.jsonl.")
    output: Path = Field(Path("build/train"), description="Folder of the run: log, checkpoints, results.")
    device: Literal["cpu", "mps", "cuda"] = Field("cpu", description="Where to compute.")
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="Precision of frozen weights, and of the steps of others."
    )
    max_seq_length: int = Field(512, ge=2, description="Longest row in tokens.")
    mask_prompt: bool = Field(False, description="Learn completions and last answers only.")
    refuse_long: bool = Field(False, description="Refuse rows that are too long instead of cutting them.")
    fuse: bool = Field(False, description="Write the trained model as a plain model folder too.")


class TrainRecord(Record):
    """What a run came to; ranks of the change are means over the matrices read, in `ranking_ratio` of the time."""

    method: str
    steps_count: int
    is_complete: bool
    duration_s: float
    train_rows_count: int
    cut_rows_count: int
    trainable_parameters_count: int
    valid_rows_count: int = 0
    valid_cut_rows_count: int = 0
    test_rows_count: int = 0
    test_cut_rows_count: int = 0
    valid_nats: float | None = None
    test_nats: float | None = None
    ranked_matrices_count: int = 0
    rank_steps: tuple[int, ...] = ()
    rank: tuple[float, ...] = ()
    effective_rank: tuple[float, ...] = ()
    stable_rank: tuple[float, ...] = ()
    rank_since_step: int = 0
    ranking_ratio: float | None = None


def train(
    paths: Paths,
    method: Method,
    settings: Settings,
    *,
    resume: bool = False,
    stop: Stop | None = None,
    watch: Watch | None = None,
    progress: Progress = silent,
    admit: Callable[[Plan], object] = anything,
) -> TrainRecord:
    """Train, from the start or from the newest checkpoint, and write the results into the output folder.

    What the run will take memory for is shown to `admit` before weights are loaded: it may refuse by raising.
    There `log.jsonl`, `tensorboard/` and `checkpoint-<step>/` grow; at the end come `adapter/`, in PEFT's form, where
    the weights beside it stayed the loaded ones, else (or with `fuse`, or a mask token) `model/`, a plain model folder.
    """
    if not resume:
        checkpoint.check_free(paths.output)
    start = checkpoint.newest(paths.output) if resume else None
    checked_device(paths.device)
    folder = _whole(paths, progress)
    splits = _splits(paths, folder)
    plan = _plan(paths, method, settings, folder, splits["train"])
    admit(plan)
    backend = load(folder, "torch", paths.device, plan.dtype, progress)
    began = time.perf_counter()
    with explained(paths.output):
        paths.output.mkdir(parents=True, exist_ok=True)
    prepared = method.prepare(cast(Any, backend).model, settings)
    if prepared.change and not watch:
        prepared.change.keep_only(())
    if prepared.mask_token is not None:
        check_mask_token(backend.tokenizer, prepared.mask_token)
    log, bar = Log(paths.output), Bar(progress)
    watching = [watch.begin(prepared, backend.folder, to_both(log, bar))] if watch else []
    callbacks = [log, *watching, bar, *([stop] if stop else [])]
    trainer = _trainer(paths, method, settings, backend, splits, prepared, callbacks)
    trainer.train(start)
    is_complete = trainer.state.global_step == settings.iters
    held_out = _held_out(trainer, splits, is_complete=is_complete)
    if is_complete:
        _write(paths, trainer, backend, progress)
    figures = {"duration_s": time.perf_counter() - began, **(watch.figures() if watch else {}), **held_out}
    return _record(method, settings, backend, trainer, splits, figures, is_complete=is_complete)


def _held_out(trainer: Trainer, splits: Mapping[str, Examples], *, is_complete: bool) -> dict[str, Any]:
    """Return what held-out rows there are and, after the last step, their losses; without any see that there is one."""
    found: dict[str, Any] = {}
    for split in splits.keys() & {"valid", "test"}:
        nats, rows = trainer.held_out_nats(splits[split]) if is_complete else None, splits[split]
        figures = {"rows_count": len(rows), "cut_rows_count": rows.cut_count, "nats": nats}
        found |= {f"{split}_{name}": value for name, value in figures.items()}
    if is_complete and not found:
        trainer.held_out_nats(splits["train"], limit=trainer.settings.batch_size)
    return found


def _whole(paths: Paths, progress: Progress) -> ModelFolder:
    folder = locate(paths.model, progress)
    if folder.bits is not None:
        raise BadInputError(f"a model to train must have whole weights, {folder.path.name} has {folder.bits} bits")
    return folder


def _plan(paths: Paths, method: Method, settings: Settings, folder: ModelFolder, rows: Examples) -> Plan:
    """Return what the run takes memory for, its longest rows."""
    return Plan.as_trained(
        folder.size,
        method,
        dtype=paths.dtype,
        device=paths.device,
        batch_size=settings.batch_size,
        length=max(len(row.tokens) for row in rows.rows),
        checkpointing=settings.checkpointing,
        gradient_accumulation=settings.gradient_accumulation,
    )


def _splits(paths: Paths, folder: ModelFolder) -> dict[str, Examples]:
    most = folder.size.max_position_embeddings
    if paths.max_seq_length > most:
        raise BadInputError(f"max seq length must be at most the model's context, {most}, got {paths.max_seq_length}")
    reading = Reading(load_tokenizer(folder.path), paths.max_seq_length, paths.mask_prompt, paths.refuse_long)
    if not split_path(paths.data, "train").exists():
        raise BadInputError(f"data folder {paths.data} has no train.jsonl")
    there = (split for split in ("train", "valid", "test") if split_path(paths.data, split).exists())
    return {split: Examples(split_path(paths.data, split), reading) for split in there}


def _trainer(
    paths: Paths,
    method: Method,
    settings: Settings,
    backend: Any,
    splits: dict[str, Examples],
    prepared: Prepared,
    callbacks: Sequence[TrainerCallback],
) -> Trainer:
    return Trainer(
        prepared,
        splits["train"],
        settings,
        held_out=splits.get("valid"),
        callbacks=callbacks,
        folder=paths.output,
        identity=_identity(paths, method, settings, backend) | _kept(prepared),
        device=paths.device,
        autocast=paths.dtype == "bfloat16" and method.trains_weights,
    )


def _identity(paths: Paths, method: Any, settings: Settings, backend: Backend) -> dict[str, Any]:
    """Return all that decides the numbers of a run: a resumed one must agree in every field."""
    chosen = {**paths.model_dump(mode="json", exclude={"output", "fuse", "model", "data"})}
    chosen |= settings.model_dump(mode="json", exclude={"save_every"}) | method.model_dump(mode="json")
    files = (split_path(paths.data, split) for split in ("train", "valid"))
    data = hashlib.sha256("".join(sha256(file) for file in files if file.exists()).encode()).hexdigest()
    return {**chosen, "method": method.name, "model": backend.folder.sha256, "data": data}


def _kept(prepared: Prepared) -> dict[str, bool]:
    """Return what a resumed run must agree in too: merges that were not kept cannot be read later."""
    change = prepared.change if prepared.changes_frozen_weights else None
    return {"ranks_are_read": change.names != ()} if change else {}


def _write(paths: Paths, trainer: Trainer, backend: Backend, progress: Progress) -> None:
    is_adapter = bool(adapters.layers(trainer.model)) and not trainer.prepared.changes_frozen_weights
    mask_token = trainer.prepared.mask_token
    if is_adapter:
        base = adapters.Base(model=backend.folder.model_id, sha256=backend.folder.sha256, mask_token=mask_token)
        adapters.save(trainer.model, paths.output / "adapter", base)
    if paths.fuse or not is_adapter or mask_token is not None:  # PEFT's own files cannot say what was masked
        model = paths.output / "model"
        fuse(trainer.model, backend.folder, model, dtype=paths.dtype, mask_token=mask_token, progress=progress)


def _record(
    method: Method,
    settings: Settings,
    backend: Backend,
    trainer: Trainer,
    splits: dict[str, Examples],
    figures: Mapping[str, Any],
    *,
    is_complete: bool,
) -> TrainRecord:
    losses = tuple(line["loss"] for line in trainer.state.log_history if "loss" in line)
    return TrainRecord.measured(
        subject(backend, settings.seed),
        experiment=f"train_{method.name}",
        experiment_version=VERSION,
        config_json=json.dumps(trainer.identity, sort_keys=True),
        scale="study",
        samples=losses,
        method=method.name,
        steps_count=trainer.state.global_step,
        is_complete=is_complete,
        train_rows_count=len(splits["train"]),
        cut_rows_count=splits["train"].cut_count,
        trainable_parameters_count=sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        **figures,
    )
