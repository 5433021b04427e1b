"""Files of tensors that a run leaves for the next one: read without any code in them, or refused in one sentence."""

from pathlib import Path
from typing import Any

import torch

from gemma_bench.core.errors import DamagedFileError


def read_torch(path: Path, what: str, remedy: str) -> Any:
    """Read a file to the CPU; `what` names its kind, `remedy` says what to do about a damaged one."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch names no common base of what unpickling raises
        raise DamagedFileError(f"{what} {path} cannot be read ({type(error).__name__}): {remedy}") from error
