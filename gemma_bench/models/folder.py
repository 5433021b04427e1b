"""A model on disk: config.json, tokenizer and safetensors, opened only after everything about them was checked."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from gemma_bench.core.errors import BadInputError, DamagedFileError
from gemma_bench.core.files import Progress, silent, write_text
from gemma_bench.core.records import SCHEMA, read_model
from gemma_bench.models.catalog import Size
from gemma_bench.models.configuration import check_shape, matching_size, own_quantization, quantization, read_config
from gemma_bench.models.digests import STAMP, digests_of
from gemma_bench.models.headers import check_tensors, expected_shapes, read_headers, weight_files

MANIFEST = "gemma_bench.json"
USUAL_GROUP_SIZE = 64


class FileDigest(BaseModel):
    """What one file must be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    bytes: int


class Manifest(BaseModel):
    """What this package wrote down about a folder when it made it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA
    size: Size
    origin: str
    bits: int | None
    group_size: int | None
    mask_token: int | None = None
    files: dict[str, FileDigest]


@dataclass(frozen=True)
class ModelFolder:
    """A checked model folder.

    `dtype` is the type of its floating-point tensors; `bits` and `group_size` are set where it is quantised as MLX does
    it, `is_mixed` where some matrices have others; `sha256` is one digest over the digests of all weight files.
    `mask_token` is the id that stands for a hidden token, where the model was trained with one.
    """

    path: Path
    size: Size
    origin: str
    dtype: str
    bits: int | None
    group_size: int | None
    sha256: str
    is_mixed: bool = False
    mask_token: int | None = None

    @property
    def precision(self) -> str:
        """Name the precision of the files: `bfloat16`, or `4bit` (`4bit-g32` for groups other than 64)."""
        if self.bits is None:
            return self.dtype
        return quantized_precision(self.bits, self.group_size or USUAL_GROUP_SIZE, is_mixed=self.is_mixed)

    @property
    def model_id(self) -> str:
        """Name the model for records: `270m-bfloat16`, `270m-4bit`."""
        return f"{self.size.name}-{self.precision}"


def quantized_precision(bits: int, group_size: int, *, is_mixed: bool = False) -> str:
    """Name a quantised precision; MLX's usual group of 64 goes without saying, `-mixed` says that some have others."""
    name = f"{bits}bit" if group_size == USUAL_GROUP_SIZE else f"{bits}bit-g{group_size}"
    return f"{name}-mixed" if is_mixed else name


def open_folder(path: Path, progress: Progress = silent) -> ModelFolder:
    """Check a model folder and describe it.

    Raises `BadInputError` where there is no folder, and `DamagedFileError`, which names file or tensor with what was
    expected and found, where configuration, headers, lengths or digests are not those of a Gemma 3 text model.
    """
    if not path.is_dir():
        raise BadInputError(f"there is no model folder {path}")
    config = read_config(path)
    manifest = (
        read_model(path / MANIFEST, Manifest, "manifest", "schema_version") if (path / MANIFEST).exists() else None
    )
    size = matching_size(path, config) if manifest is None else manifest.size
    check_shape(path, config, size)
    (bits, group_size), own = quantization(path, config), own_quantization(path, config)
    weight_files(path)
    if manifest is not None:
        _check_lengths(path, manifest)
    dtype = check_tensors(path, read_headers(path), expected_shapes(size, bits, group_size, own))
    digests = digests_of(
        path, [*(manifest.files if manifest else ()), *(file.name for file in weight_files(path))], progress
    )
    if manifest is not None:
        _check_digests(path, manifest, digests)
    weights = "".join(digests[file.name] for file in weight_files(path))
    return ModelFolder(
        path=path,
        size=size,
        origin=manifest.origin if manifest else f"folder {path.name}",
        dtype=dtype,
        bits=bits,
        group_size=group_size,
        sha256=hashlib.sha256(weights.encode()).hexdigest(),
        is_mixed=any(grid != (bits, group_size) for grid in own.values()),
        mask_token=manifest.mask_token if manifest else None,
    )


def seal_folder(
    path: Path, size: Size, origin: str, progress: Progress = silent, *, mask_token: int | None = None
) -> None:
    """Write the manifest of a folder that this package has just made: origin, bits, and every file's digest."""
    bits, group_size = quantization(path, read_config(path))
    names = sorted(file.name for file in path.iterdir() if file.is_file() and file.name not in (MANIFEST, STAMP))
    digests = digests_of(path, names, progress)
    files = {name: FileDigest(sha256=digests[name], bytes=(path / name).stat().st_size) for name in names}
    manifest = Manifest(size=size, origin=origin, bits=bits, group_size=group_size, mask_token=mask_token, files=files)
    write_text(path / MANIFEST, manifest.model_dump_json(indent=1) + "\n")


def _check_lengths(path: Path, manifest: Manifest) -> None:
    for name, promised in manifest.files.items():
        if not (path / name).exists():
            raise DamagedFileError(f"model folder {path}: file {name} is missing")
        found = (path / name).stat().st_size
        if found != promised.bytes:
            raise DamagedFileError(f"file {path / name} must have {promised.bytes:,} bytes, found {found:,}")


def _check_digests(path: Path, manifest: Manifest, digests: Mapping[str, str]) -> None:
    for name, promised in manifest.files.items():
        if digests[name] != promised.sha256:
            raise DamagedFileError(f"file {path / name} must have sha256 {promised.sha256}, found {digests[name]}")
