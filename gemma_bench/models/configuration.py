"""config.json of a model folder: is it Gemma 3, of which size, and quantised how."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gemma_bench.core.errors import DamagedFileError
from gemma_bench.core.files import read_text
from gemma_bench.models.catalog import SIZES, TINY, Size

_SHAPE_FIELDS = (
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "query_pre_attn_scalar",
    "sliding_window",
    "vocab_size",
)
_ROPE_FIELDS = ("sliding_window_pattern", "rope_theta", "rope_local_base_freq")


def read_config(path: Path) -> dict[str, Any]:
    """Read a folder's config.json as a JSON object."""
    file = path / "config.json"
    if not file.exists():
        raise DamagedFileError(f"model folder {path} has no config.json")
    try:
        config = json.loads(read_text(file, "model configuration"))
    except ValueError as error:
        raise DamagedFileError(f"model configuration {file} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise DamagedFileError(f"model configuration {file} must be a JSON object, found {type(config).__name__}")
    return config


def matching_size(path: Path, config: Mapping[str, Any]) -> Size:
    """Find the size of the catalog that a configuration describes by its depth and width."""
    _refuse_other_kind(path, config)
    shape = (config.get("num_hidden_layers"), config.get("hidden_size"))
    sizes = (*SIZES.values(), TINY)
    found = next((size for size in sizes if (size.num_hidden_layers, size.hidden_size) == shape), None)
    if found is None:
        known = ", ".join(f"{size.name} {size.num_hidden_layers}×{size.hidden_size}" for size in sizes)
        raise DamagedFileError(
            f"model configuration {path / 'config.json'}: {shape[0]} layers × {shape[1]} wide is no Gemma 3 ({known})"
        )
    return found


def _refuse_other_kind(path: Path, config: Mapping[str, Any]) -> None:
    kind = config.get("model_type")
    if kind == "gemma3":
        raise DamagedFileError(
            f"model folder {path} is a multimodal checkpoint, only text models open here: "
            "`gemma-bench download SIZE --from FOLDER` extracts its text model"
        )
    if kind != "gemma3_text":
        raise DamagedFileError(
            f"model configuration {path / 'config.json'}: model_type must be 'gemma3_text', found {kind!r}"
        )


def check_shape(path: Path, config: Mapping[str, Any], size: Size) -> None:
    """Compare every field that shapes the model, and the rotary bases where they are written in the classic form."""
    _refuse_other_kind(path, config)
    for field in (*_SHAPE_FIELDS, *(field for field in _ROPE_FIELDS if field in config)):
        expected, found = getattr(size, field), config.get(field)
        if found != expected:
            where = f"model configuration {path / 'config.json'}"
            raise DamagedFileError(f"{where}: {field} of {size.name} must be {expected}, found {found!r}")


def quantization(path: Path, config: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Return the bits and the group size that MLX quantised with, `None` for plain weights."""
    found = config.get("quantization")
    if found is None:
        return None, None
    return _grid(path, found)


def own_quantization(path: Path, config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Return bits and group size of the matrices that have their own, by the names that mlx_lm gives them.

    mlx_lm writes them into `quantization` beside the usual bits: `"model.embed_tokens": {"bits": 8, …}`.
    """
    found = config.get("quantization") or {}
    return {stem: _grid(path, own) for stem, own in found.items() if stem not in ("bits", "group_size", "mode")}


def _grid(path: Path, found: Any) -> tuple[int, int]:
    """Read one entry, which must be affine: a scale and a bias per group."""
    entry = found if isinstance(found, dict) else {}
    bits, group_size = entry.get("bits"), entry.get("group_size")
    if entry.get("mode", "affine") != "affine" or not isinstance(bits, int) or not isinstance(group_size, int):
        raise DamagedFileError(
            f"model configuration {path / 'config.json'}: quantization must be affine with bits and group_size, "
            f"found {found!r}"
        )
    return bits, group_size
