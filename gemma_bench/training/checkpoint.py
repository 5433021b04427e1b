"""Checkpoints from which a run goes on bit for bit: written beside their place and renamed, whole or not at all.

One holds what training may have changed: weights and their lower halves, optimizer, schedule, the method's own state,
random numbers, and the losses not yet in the log. What never changes is not in it and comes from the model again.
"""

import json
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from torch import Tensor
from transformers import TrainerState

from gemma_bench.core.errors import BadInputError, DamagedFileError, GemmaBenchError, InvalidRunError
from gemma_bench.core.files import new_folder, read_text
from gemma_bench.training.adapters import layers
from gemma_bench.training.split_weights import LOW_HALF, low_half
from gemma_bench.training.torch_file import read_torch

if TYPE_CHECKING:
    from gemma_bench.training.trainer import Trainer

STATE, IDENTITY, COUNTERS = "state.pt", "run.json", "trainer_state.json"
_PREFIX = "checkpoint-"
_KEPT = 2
_TOLD_FIRST = ("method", "model", "data")
"""Where one of these differs, so do others that follow from it."""


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, the newest last."""
    found = [path for path in folder.glob(f"{_PREFIX}*") if path.name.removeprefix(_PREFIX).isdigit()]
    return sorted(found, key=_step)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix(_PREFIX))


def what_is_good(folder: Path | None, steps: int) -> str:
    """Say which checkpoint to go on from, where a run diverged with so many steps done.

    One is good when the step after it had a loss and a gradient; one of the very step before was not tried yet.
    """
    there = checkpoints(folder) if folder else []
    good = [path.name for path in there if _step(path) < steps]
    untried = [path.name for path in there if _step(path) >= steps]
    said = f"{good[-1]} is the last good checkpoint" if good else "there is no good checkpoint"
    return f"{said}, {untried[-1]} leads to this again" if untried else said


def check_free(folder: Path) -> None:
    """Refuse a folder in which the results of two runs would lie side by side."""
    if checkpoints(folder):
        raise BadInputError(f"folder {folder} holds a run already: resume it or give another output")
    if there := [name for name in ("adapter", "model", "rank") if (folder / name).exists()]:
        raise BadInputError(
            f"folder {folder} holds {', '.join(there)} of a run already: give another output, or remove what is there"
        )


def newest(folder: Path) -> Path:
    """Return the newest checkpoint of a run."""
    found = checkpoints(folder)
    if not found:
        raise BadInputError(f"nothing to resume: folder {folder} holds no checkpoint")
    return found[-1]


def check_identity(checkpoint: Path, identity: Mapping[str, Any]) -> None:
    """Refuse to go on with another model, other data or other options; the error names the first difference."""
    try:
        was = json.loads(read_text(checkpoint / IDENTITY, "checkpoint"))
    except ValueError as error:
        raise DamagedFileError(f"checkpoint {checkpoint / IDENTITY} is not JSON: {error}") from error
    if not isinstance(was, dict):
        raise DamagedFileError(f"checkpoint {checkpoint / IDENTITY} must hold names, got {type(was).__name__}")
    for name in sorted({*was, *identity}, key=lambda name: (name not in _TOLD_FIRST, name)):
        if was.get(name) != identity.get(name):
            raise BadInputError(
                f"cannot resume {checkpoint}: {name} was {was.get(name)!r} there and is {identity.get(name)!r} now"
            )


def save(trainer: "Trainer") -> None:
    """Write a checkpoint of this very step and drop those before the last two; refuse weights that are no numbers."""
    folder = Path(trainer.args.output_dir)
    for name, tensor in changing_weights(trainer).items():
        if not bool(torch.isfinite(tensor).all()):
            raise InvalidRunError("diverged", f"{name} is no number any more after step {trainer.state.global_step}")
    with new_folder(folder / f"{_PREFIX}{trainer.state.global_step}") as partial:
        _write(_state(trainer), partial / STATE)
        trainer.state.save_to_json(str(partial / COUNTERS))
        (partial / IDENTITY).write_text(json.dumps(trainer.identity, indent=1) + "\n", encoding="utf-8")
    for old in checkpoints(folder)[:-_KEPT]:
        shutil.rmtree(old)


def _state(trainer: "Trainer") -> dict[str, Any]:
    return {
        "weights": changing_weights(trainer),
        "optimizer": trainer.optimizer.state_dict(),
        "schedule": trainer.lr_scheduler.state_dict(),
        "method": [callback.state_dict() for callback in trainer.prepared.callbacks],
        "random": _random_state(),
        "pending_loss": trainer._tr_loss,
        "last_logged_step": trainer._globalstep_last_logged,
        "logged_loss": trainer._total_loss_scalar,
    }


def _write(state: dict[str, Any], path: Path) -> None:
    """Write with torch, whose writer hides the system's error number in a `RuntimeError`."""
    try:
        torch.save(state, path)
    except RuntimeError as error:
        raise GemmaBenchError(f"cannot write {path.parent}: is the disk full? ({error})") from error


def changing_weights(trainer: "Trainer") -> dict[str, Tensor]:
    """Return all that training may change: what an optimizer owns, and what merges reach."""
    owned = {id(parameter) for group in trainer.prepared.groups for parameter in group.parameters}
    found = {name: part.detach() for name, part in trainer.model.named_parameters() if id(part) in owned}
    if trainer.prepared.changes_frozen_weights:
        for name, layer in layers(trainer.model).items():
            plain: Any = layer.get_base_layer()
            found[f"{name}.weight"] = plain.weight.detach()
            if plain.weight.dtype is torch.bfloat16:
                found[f"{name}.{LOW_HALF}"] = low_half(plain)
    return found


def restore_model(trainer: "Trainer", checkpoint: Path) -> None:
    """Bring weights and the method's state back; the rest waits until the trainer has built what it belongs to."""
    check_identity(checkpoint, trainer.identity)
    _check_counters(checkpoint)
    state: dict[str, Any] = read_torch(
        checkpoint / STATE, "checkpoint", f"remove {checkpoint.name} to go on from the one before"
    )
    with torch.no_grad():
        for name, tensor in changing_weights(trainer).items():
            tensor.copy_(state["weights"][name])
    for callback, method in zip(trainer.prepared.callbacks, state["method"], strict=True):
        # A generator's state stays where it is; on CUDA and MPS this has never run.
        callback.load_state_dict(send_to_device(method, trainer.args.device, skip_keys="generator"))
    trainer.waiting = state


def _check_counters(checkpoint: Path) -> None:
    """Refuse a file of counters that transformers would not read, or that is of another step."""
    path = checkpoint / COUNTERS
    try:
        found = TrainerState.load_from_json(str(path)).global_step
    except (OSError, TypeError, ValueError) as error:
        raise DamagedFileError(f"checkpoint {path} cannot be read: {error}") from error
    if found != _step(checkpoint):
        raise DamagedFileError(f"checkpoint {path} must be of step {_step(checkpoint)}, got {found!r}")


def restore_optimizer(trainer: "Trainer") -> None:
    """Bring the optimizer's moments and the schedule's place back."""
    trainer.optimizer.load_state_dict(trainer.waiting["optimizer"])
    trainer.lr_scheduler.load_state_dict(trainer.waiting["schedule"])


def restore_counters(trainer: "Trainer") -> None:
    """Bring random numbers and the losses that no line of the log has yet back."""
    state, trainer.waiting = trainer.waiting, {}
    trainer._tr_loss = state["pending_loss"].to(trainer.args.device)
    trainer._globalstep_last_logged = state["last_logged_step"]
    trainer._total_loss_scalar = state["logged_loss"]
    _set_random_state(state["random"])


def _random_state() -> dict[str, Any]:
    kind, keys, *rest = np.random.get_state(legacy=True)
    state = {"python": random.getstate(), "numpy": (kind, np.asarray(keys).tolist(), *rest)}
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    return state | {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all(), "mps": mps}


def _set_random_state(state: Mapping[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["cpu"])
    if torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    if torch.backends.mps.is_available() and state.get("mps") is not None:
        torch.mps.set_rng_state(state["mps"])  # never run so far
