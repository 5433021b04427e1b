"""Seeded random weights: a model that is no use and all there for tests, saved exactly as real ones are."""

from pathlib import Path
from typing import TYPE_CHECKING

from gemma_bench.core.files import Progress, silent
from gemma_bench.models.catalog import TINY, Size
from gemma_bench.models.folder import ModelFolder
from gemma_bench.models.saving import save_folder
from gemma_bench.models.tokenizer import byte_tokenizer

if TYPE_CHECKING:
    from torch import Generator, Tensor

_NORM_STD = 0.1
_QK_NORM_MEAN = 1.0
"""Norms scale by 1 + weight; doubled queries and keys give attention scores a spread of about 4, far from uniform."""


def random_folder(
    path: Path,
    size: Size = TINY,
    *,
    seed: int = 0,
    dtype: str = "float32",
    mask_token: int | None = None,
    progress: Progress = silent,
) -> ModelFolder:
    """Write random weights of a size with the byte-level tokenizer; the same seed gives the same bytes."""
    import torch

    shapes = size.parameter_shapes()
    generator = torch.Generator().manual_seed(seed)

    def read(name: str) -> "Tensor":
        return random_tensor(name, shapes[name], generator)

    origin = f"random weights, seed {seed}"
    return save_folder(
        path, size, read, byte_tokenizer(), origin, dtype=dtype, mask_token=mask_token, progress=progress
    )


def random_tensor(name: str, shape: tuple[int, ...], generator: "Generator") -> "Tensor":
    """Draw one tensor: matrices keep the variance of what they are given, norms scatter around their usual values."""
    import torch

    values: Tensor = torch.randn(shape, generator=generator)
    if len(shape) == 1:
        mean = _QK_NORM_MEAN if name.endswith(("q_norm.weight", "k_norm.weight")) else 0.0
        return values * _NORM_STD + mean
    return values / float(shape[1] ** 0.5)
