"""From a model with adapters to a plain model folder, which transformers and mlx_lm both load."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gemma_bench.core.files import Progress, silent
from gemma_bench.models.folder import ModelFolder
from gemma_bench.models.saving import save_folder
from gemma_bench.models.tokenizer import load_tokenizer
from gemma_bench.training.adapters import ADAPTER, factors, layers, token_rows
from gemma_bench.training.split_weights import master


def fuse(
    model: nn.Module,
    source: ModelFolder,
    destination: Path,
    *,
    dtype: str | None = None,
    mask_token: int | None = None,
    progress: Progress = silent,
) -> ModelFolder:
    """Write the model as it computes now: weights, what bfloat16 lost of them, and adapters, rounded once.

    The folder declares `mask_token`, or that of its source, as the one that stands for hidden tokens.
    """
    plain: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    found, rows, named = layers(plain), token_rows(plain), dict(plain.named_parameters())

    def read(name: str) -> Tensor:
        owner = name.removesuffix(".weight")
        if owner in rows:
            return rows[owner].get_merged_weights([ADAPTER]).detach().cpu()
        layer = found.get(owner)
        if layer is None:
            tensor: Tensor = named[name]
            return tensor.detach().cpu()
        b, a = (part.float() for part in factors(layer))
        with torch.no_grad():
            return torch.addmm(master(layer.get_base_layer()).float(), b, a).cpu()

    origin = f"{source.origin}, fine-tuned"
    return save_folder(
        destination,
        source.size,
        read,
        load_tokenizer(source.path),
        origin,
        dtype=dtype or source.dtype,
        mask_token=source.mask_token if mask_token is None else mask_token,
        progress=progress,
    )
