"""Writing a model folder: one path for real, random and extracted weights, bounded memory, whole or not at all."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemma_bench.core.errors import GemmaBenchError, unknown
from gemma_bench.core.files import Progress, new_folder, silent
from gemma_bench.core.units import gigabytes
from gemma_bench.models.catalog import Size
from gemma_bench.models.folder import ModelFolder, open_folder, seal_folder
from gemma_bench.models.tokenizer import with_chat_template

if TYPE_CHECKING:
    from torch import Tensor

FLOAT_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

_SHARD_BYTES = 4_000_000_000


def save_folder(
    path: Path,
    size: Size,
    read: "Callable[[str], Tensor]",
    tokenizer: Any,
    origin: str,
    *,
    dtype: str = "bfloat16",
    mask_token: int | None = None,
    progress: Progress = silent,
) -> ModelFolder:
    """Write a Hugging Face folder with our manifest and open it; a failure or a kill leaves `path` as it was.

    `read` is asked for one tensor after the other by its Hugging Face name, so at most one shard is in memory.
    """
    with new_folder(path) as partial:
        write_folder(partial, size, read, tokenizer, origin, dtype=dtype, mask_token=mask_token, progress=progress)
    return open_folder(path, progress)


def write_folder(
    folder: Path,
    size: Size,
    read: "Callable[[str], Tensor]",
    tokenizer: Any,
    origin: str,
    *,
    dtype: str,
    mask_token: int | None = None,
    progress: Progress = silent,
) -> None:
    """Fill an empty folder with configuration, tokenizer, weights and manifest."""
    if dtype not in FLOAT_BYTES:
        raise unknown("dtype", dtype, FLOAT_BYTES)
    require_room(folder, size.weight_bytes(8 * FLOAT_BYTES[dtype]))
    config = {**size.config(), "torch_dtype": dtype}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    with_chat_template(tokenizer).save_pretrained(folder)
    _write_weights(folder, size, read, dtype, progress)
    seal_folder(folder, size, origin, progress, mask_token=mask_token)


def require_room(folder: Path, needed_bytes: int) -> None:
    """Refuse to begin what the disk cannot hold."""
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise GemmaBenchError(
            f"no room on disk for {folder.parent}: {gigabytes(needed_bytes)} needed, {gigabytes(free)} free"
        )


def _write_weights(folder: Path, size: Size, read: "Callable[[str], Tensor]", dtype: str, progress: Progress) -> None:
    import torch

    shards, total = list(_shards(size, FLOAT_BYTES[dtype])), len(size.parameter_shapes())
    files: dict[str, str] = {}
    done = 0
    for number, names in enumerate(shards, start=1):
        file = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {}
        for name in names:
            tensors[name] = read(name).to(getattr(torch, dtype)).contiguous()
            done += 1
            progress(f"writing {size.name}", done, total)
        _write_shard(tensors, folder / file)
        files |= dict.fromkeys(names, file)
    if len(shards) > 1:
        index = {"metadata": {"total_size": size.weight_bytes(8 * FLOAT_BYTES[dtype])}, "weight_map": files}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def _shards(size: Size, bytes_per_value: int) -> Iterator[list[str]]:
    """Group tensor names in order so that no file passes the shard size (a larger tensor gets a file of its own)."""
    names: list[str] = []
    filled = 0
    for name, shape in size.parameter_shapes().items():
        count = bytes_per_value
        for extent in shape:
            count *= extent
        if names and filled + count > _SHARD_BYTES:
            yield names
            names, filled = [], 0
        names.append(name)
        filled += count
    yield names


def _write_shard(tensors: "dict[str, Tensor]", path: Path) -> None:
    from safetensors.torch import save_file

    with system_errors():
        save_file(tensors, path, metadata={"format": "pt"})


@contextmanager
def system_errors() -> Iterator[None]:
    """Raise what the system refused as `OSError`: safetensors hides its number in a message."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        if code := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(code.group(1)), str(error)) from error
        raise
