"""A run's state on disk: written whole or not at all, and taken up only by the run that wrote it."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gemma_bench.core.errors import BadInputError
from gemma_bench.core.files import new_file
from gemma_bench.training.torch_file import read_torch

_FILE = "stack.pt"


def fingerprint(*parts: object, tensors: Sequence[Tensor]) -> str:
    """Digest all that decides a run's bits."""
    digest = hashlib.sha256(repr(parts).encode())
    for tensor in tensors:
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def save(folder: Path, key: str, state: dict[str, Any]) -> None:
    """Replace the saved state in one step."""
    with new_file(folder / _FILE) as partial:
        torch.save({"key": key, **state}, partial)


def load(folder: Path, key: str) -> dict[str, Any] | None:
    """Return the saved state, or `None` if there is none.

    Raises `BadInputError` where another run left it and `DamagedFileError` where it cannot be read.
    """
    path = folder / _FILE
    if not path.exists():
        return None
    state: dict[str, Any] = read_torch(path, "state", "remove it to start anew")
    if state.get("key") != key:
        raise BadInputError(f"state {path} is of another configuration: remove it to start anew")
    return state
