"""Quantised folders of our own making, in MLX's format: which matrices get how many bits, and rounded how."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from gemma_bench.core.errors import BadInputError
from gemma_bench.core.files import Progress, new_folder, silent
from gemma_bench.models.folder import ModelFolder, open_folder, seal_folder
from gemma_bench.models.headers import read_headers
from gemma_bench.models.packed import pack
from gemma_bench.models.rounding import Rounded, round_fitted, round_min_max
from gemma_bench.models.saving import require_room
from gemma_bench.models.tokenizer import load_tokenizer
from gemma_bench.models.weights import models_folder

Rounding = Callable[[Tensor, int, int], Rounded]


@dataclass(frozen=True)
class Coding:
    """How one kind of matrix is rounded."""

    bits: int
    group_size: int
    rounding: Rounding

    def entry(self) -> dict[str, Any]:
        """Return what MLX's configuration says of it."""
        return {"group_size": self.group_size, "bits": self.bits, "mode": "affine"}


@dataclass(frozen=True)
class Scheme:
    """A coding for all matrices and others for those whose names end in a given way (`embed_tokens`, `v_proj`)."""

    name: str
    title: str
    usual: Coding
    others: Mapping[str, Coding] = field(default_factory=dict)

    def coding(self, stem: str) -> Coding:
        """Return the coding of a matrix by its name without `.weight`."""
        return next((coding for ending, coding in self.others.items() if stem.endswith(ending)), self.usual)


_EIGHT = Coding(8, 64, round_fitted)

NAIVE = Scheme("naive", "4 bits from smallest to largest, groups of 64", Coding(4, 64, round_min_max))
"""What MLX's own converter does."""

NAIVE_HEAD_8 = Scheme(
    "naive8",
    "4 bits from smallest to largest, groups of 64, embedding 8 bits",
    NAIVE.usual,
    {"embed_tokens": Coding(8, 64, round_min_max)},
)

FITTED = Scheme("fitted", "4 bits, fitted, groups of 32", Coding(4, 32, round_fitted))

FITTED_HEAD_8 = Scheme(
    "head8", "4 bits, fitted, groups of 32, embedding 8 bits", FITTED.usual, {"embed_tokens": _EIGHT}
)

MIXED = Scheme("mixed", "embedding 4 bits, fitted, groups of 32, layers 8 bits", FITTED.usual, {"_proj": _EIGHT})
"""Where most weights are the embedding's (270M): those in 4 bits, the layers, which bear it worse, in 8."""

ALL_8 = Scheme("all8", "8 bits, fitted, groups of 64", _EIGHT)
"""The control: no loss that a perplexity shows."""

SCHEMES = {scheme.name: scheme for scheme in (FITTED, MIXED, FITTED_HEAD_8, ALL_8)}


def quantise(
    folder: ModelFolder, scheme: Scheme, destination: Path | None = None, progress: Progress = silent
) -> ModelFolder:
    """Round a plain folder's matrices, write them as a folder that MLX reads too, and open it.

    Without a destination it is named by its scheme among the models (`270m-mixed`).

    Raises `BadInputError` for a quantised folder or groups that do not divide a row.
    """
    if folder.bits is not None:
        raise BadInputError(f"{folder.path.name} is quantised already: quantise {folder.size.name} instead")
    others = {stem: scheme.coding(stem).entry() for stem in _stems(folder) if scheme.coding(stem) != scheme.usual}
    target = destination or models_folder() / f"{folder.path.name}-{scheme.name}"
    config = {**folder.size.config(), "torch_dtype": "bfloat16", "quantization": {**scheme.usual.entry(), **others}}
    with new_folder(target) as partial:
        require_room(partial, folder.size.weight_bytes(8, scheme.usual.group_size))
        (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        load_tokenizer(folder.path).save_pretrained(partial)
        tensors = dict(_rounded_tensors(folder, scheme, progress))
        save_file(tensors, partial / "model.safetensors", metadata={"format": "mlx"})
        seal_folder(partial, folder.size, f"{folder.origin}; {scheme.title}", progress, mask_token=folder.mask_token)
    return open_folder(target, progress)


def _stems(folder: ModelFolder) -> list[str]:
    return [name.removesuffix(".weight") for name in folder.size.matrix_shapes()]


def _rounded_tensors(folder: ModelFolder, scheme: Scheme, progress: Progress) -> Iterator[tuple[str, Tensor]]:
    """Yield what the folder will hold: words, scales and biases of each matrix, and the norms in bfloat16."""
    headers, matrices = read_headers(folder.path), folder.size.matrix_shapes()
    for done, (name, header) in enumerate(headers.items()):
        progress(f"rounding {folder.path.name}", done, len(headers))
        with safe_open(header.file, framework="pt") as file:
            tensor = file.get_tensor(name)
        if name not in matrices:
            yield name, tensor.bfloat16()
            continue
        stem = name.removesuffix(".weight")
        coding = scheme.coding(stem)
        rounded = coding.rounding(tensor, coding.bits, coding.group_size)
        yield name, pack(rounded.codes, coding.bits)
        yield f"{stem}.scales", rounded.scales
        yield f"{stem}.biases", rounded.biases
    progress(f"rounding {folder.path.name}", len(headers), len(headers))
