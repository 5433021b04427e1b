"""What a folder's weight files hold, read from their headers alone: names, shapes and types, never a tensor.

The safetensors format: eight bytes of header length (little-endian), a JSON header, then the data.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from gemma_bench.core.errors import DamagedFileError
from gemma_bench.models.catalog import Size

FLOAT_TYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}

_LENGTH_BYTES = 8
_HEADER_BYTES_MAX = 100_000_000
_PACKED_BITS = 32
"""MLX packs quantised weights into 32-bit words."""


@dataclass(frozen=True)
class TensorHeader:
    """One tensor as its file announces it."""

    file: Path
    dtype: str
    shape: tuple[int, ...]


def weight_files(folder: Path) -> list[Path]:
    """Return a folder's safetensors files; pickled weights are refused, because reading them runs code."""
    found = sorted(folder.glob("*.safetensors"))
    if found:
        return found
    pickled = sorted(path.name for suffix in ("bin", "pt", "pth") for path in folder.glob(f"*.{suffix}"))
    if pickled:
        raise DamagedFileError(
            f"model folder {folder} holds only pickled weights ({pickled[0]}): safetensors are needed"
        )
    raise DamagedFileError(f"model folder {folder} holds no *.safetensors file")


def read_headers(folder: Path) -> dict[str, TensorHeader]:
    """Read the headers of all weight files of a folder, each file checked against its announced length."""
    tensors: dict[str, TensorHeader] = {}
    for path in weight_files(folder):
        for name, header in _read_header(path).items():
            if name in tensors:
                raise DamagedFileError(
                    f"tensor {name} is in {tensors[name].file.name} and in {path.name}, expected once"
                )
            tensors[name] = header
    return tensors


def _read_header(path: Path) -> dict[str, TensorHeader]:
    found_bytes = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
        if not 0 < length <= min(found_bytes - _LENGTH_BYTES, _HEADER_BYTES_MAX):
            raise DamagedFileError(
                f"weights {path} are damaged or truncated: no safetensors header in {found_bytes:,} bytes"
            )
        raw = stream.read(length)
    try:
        entries: dict[str, dict[str, list[int]]] = json.loads(raw)
        entries.pop("__metadata__", None)
        tensors = {
            name: TensorHeader(path, str(entry["dtype"]), tuple(entry["shape"])) for name, entry in entries.items()
        }
        data_bytes = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise DamagedFileError(
            f"weights {path} are damaged: the safetensors header is unreadable ({error!r})"
        ) from error
    expected_bytes = _LENGTH_BYTES + length + data_bytes
    if found_bytes != expected_bytes:
        raise DamagedFileError(
            f"weights {path} are truncated or damaged: expected {expected_bytes:,} bytes, found {found_bytes:,}"
        )
    return tensors


def expected_shapes(
    size: Size,
    bits: int | None = None,
    group_size: int | None = None,
    own: Mapping[str, tuple[int, int]] = MappingProxyType({}),
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a folder's tensors: Hugging Face's, or MLX's packed weights, scales and biases.

    `own` gives bits and group size of the matrices that have others than the usual ones.
    """
    shapes = dict(size.parameter_shapes())
    if bits is None or group_size is None:
        return shapes
    for name, (rows, columns) in size.matrix_shapes().items():
        stem = name.removesuffix(".weight")
        own_bits, own_group_size = own.get(stem, (bits, group_size))
        shapes[name] = (rows, columns * own_bits // _PACKED_BITS)
        shapes[f"{stem}.scales"] = shapes[f"{stem}.biases"] = (rows, columns // own_group_size)
    return shapes


def check_tensors(folder: Path, found: Mapping[str, TensorHeader], expected: Mapping[str, tuple[int, ...]]) -> str:
    """Compare a folder's tensors with what its size needs and return the type of the unpacked ones."""
    for name, shape in expected.items():
        if name not in found:
            raise DamagedFileError(f"model folder {folder}: tensor {name} {list(shape)} is missing")
        if found[name].shape != shape:
            raise DamagedFileError(
                f"weights {found[name].file}: tensor {name} must be {list(shape)}, found {list(found[name].shape)}"
            )
    for name, header in found.items():
        if name not in expected:
            raise DamagedFileError(
                f"weights {header.file}: tensor {name} {list(header.shape)} is not part of this model"
            )
    return _float_type(found, packed={name for name in expected if f"{name.removesuffix('weight')}scales" in expected})


def _float_type(found: Mapping[str, TensorHeader], packed: set[str]) -> str:
    """Return the type of a model's floating-point tensors, which must be one of three and the same for all."""
    first: str | None = None
    for name, header in found.items():
        allowed = ["U32"] if name in packed and name.endswith(".weight") else list(FLOAT_TYPES)
        if header.dtype not in allowed:
            raise DamagedFileError(
                f"weights {header.file}: tensor {name} is {header.dtype}, expected {' or '.join(allowed)}"
            )
        if header.dtype == "U32":
            continue
        first = first or header.dtype
        if header.dtype != first:
            raise DamagedFileError(f"weights {header.file}: tensor {name} is {header.dtype}, the others are {first}")
    return FLOAT_TYPES[first or "F32"]
