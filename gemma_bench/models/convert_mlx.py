"""Conversion to MLX's own folders, quantised or 16 bit, by mlx_lm's own converter."""

import contextlib
import io
import json
from pathlib import Path

from gemma_bench.core.errors import BadInputError, UnavailableError
from gemma_bench.core.files import Progress, new_folder, silent
from gemma_bench.models.folder import USUAL_GROUP_SIZE, ModelFolder, open_folder, quantized_precision, seal_folder
from gemma_bench.models.saving import require_room
from gemma_bench.models.weights import models_folder

BITS = (2, 3, 4, 5, 6, 8, 16)
"""MLX's affine quantisations; 16 leaves the weights whole, in bfloat16."""

GROUP_SIZES = (32, 64, 128)

_WHOLE = 16


def convert(
    folder: ModelFolder,
    bits: int,
    group_size: int = USUAL_GROUP_SIZE,
    destination: Path | None = None,
    progress: Progress = silent,
) -> ModelFolder:
    """Convert a folder to `270m-4bit` (`270m-4bit-g32` for groups other than 64) among the models, or to `destination`.

    Scales, biases and norms become bfloat16. Raises `BadInputError` for bits or groups that MLX does not have or that
    do not divide this model's rows, and `UnavailableError("mlx")` where mlx_lm is not installed.
    """
    _check(folder, bits, group_size)
    try:
        from mlx_lm.convert import convert as mlx_convert
    except ImportError as error:
        raise UnavailableError("mlx", 'mlx_lm is not installed: `pip install "gemma_bench[mlx]"`') from error
    quantize = bits != _WHOLE
    groups = group_size if quantize else USUAL_GROUP_SIZE
    target = destination or models_folder() / f"{folder.path.name}-{quantized_precision(bits, groups)}"
    progress(f"converting {folder.path.name} to {bits} bits", 0, 1)
    with new_folder(target) as partial:
        require_room(partial, folder.size.weight_bytes(bits, group_size if quantize else None))
        partial.rmdir()  # mlx_lm insists that its target does not exist
        with contextlib.redirect_stdout(io.StringIO()):
            mlx_convert(
                str(folder.path),
                str(partial),
                quantize=quantize,
                q_bits=bits if quantize else None,
                q_group_size=group_size if quantize else None,
                dtype="bfloat16",
            )
        _finish(partial, folder, progress)
    progress(f"converting {folder.path.name} to {bits} bits", 1, 1)
    return open_folder(target, progress)


def _finish(partial: Path, folder: ModelFolder, progress: Progress) -> None:
    """Put our configuration (the type as it now is) and manifest beside the weights."""
    config = json.loads((partial / "config.json").read_text(encoding="utf-8"))
    quantization = {key: config[key] for key in ("quantization", "quantization_config") if key in config}
    ours = {**folder.size.config(), "torch_dtype": "bfloat16", **quantization}
    (partial / "config.json").write_text(json.dumps(ours, indent=2) + "\n", encoding="utf-8")
    seal_folder(partial, folder.size, folder.origin, progress, mask_token=folder.mask_token)


def _check(folder: ModelFolder, bits: int, group_size: int) -> None:
    if bits not in BITS:
        raise BadInputError(f"bits must be one of {', '.join(map(str, BITS))}, got {bits}")
    if folder.bits is not None:
        raise BadInputError(f"{folder.path.name} is quantised already: convert {folder.size.name} instead")
    if bits == _WHOLE:
        return
    if group_size not in GROUP_SIZES:
        raise BadInputError(f"group size must be one of {', '.join(map(str, GROUP_SIZES))}, got {group_size}")
    for name, (rows, columns) in folder.size.matrix_shapes().items():
        if columns % group_size:
            raise BadInputError(
                f"group size {group_size} does not divide the rows of {name} in {folder.size.name} ({rows} × {columns})"
            )
