"""Taking over a model folder from elsewhere: checked, reduced to its text model, and written as one of ours."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemma_bench.core.errors import BadInputError, DamagedFileError
from gemma_bench.core.files import Progress, silent
from gemma_bench.models.catalog import Size
from gemma_bench.models.configuration import read_config
from gemma_bench.models.folder import ModelFolder, open_folder
from gemma_bench.models.headers import FLOAT_TYPES, TensorHeader, check_tensors, read_headers
from gemma_bench.models.saving import save_folder
from gemma_bench.models.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from torch import Tensor

_EMBEDDING = "model.embed_tokens.weight"

_TEXT_PREFIXES = {"language_model.model.": "model.", "model.language_model.": "model.", "model.": "model."}
"""Where multimodal checkpoints keep the text model, first match wins; the last form is a text folder's own."""

_OTHER_PARTS = ("vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector.")
_TIED_HEADS = ("language_model.lm_head.weight", "lm_head.weight")


def adopt(
    source: Path, size: Size, destination: Path, *, origin: str | None = None, progress: Progress = silent
) -> ModelFolder:
    """Write the text model of `source` as a folder of ours.

    A multimodal checkpoint loses its vision tower and the 64 image rows of its embedding (262,208 → 262,144), as in
    Google's own text configurations. Raises `BadInputError` for a folder of another size or a quantised one.
    """
    if not source.is_dir():
        raise BadInputError(f"there is no model folder {source}")
    config = read_config(source)
    text = config.get("text_config", config)
    shape = (text.get("num_hidden_layers"), text.get("hidden_size"))
    if shape != (size.num_hidden_layers, size.hidden_size):
        raise BadInputError(
            f"folder {source} holds {shape[0]} layers × {shape[1]} wide, "
            f"{size.name} has {size.num_hidden_layers} × {size.hidden_size}"
        )
    if "quantization" in config or "quantization_config" in config:
        raise BadInputError(f"folder {source} is quantised, the original weights are needed")
    tensors, told = _text_tensors(source, size, config, progress)
    dtype = FLOAT_TYPES[tensors[_EMBEDDING][1].dtype]
    read = _reader({name: (stored, header.file) for name, (stored, header) in tensors.items()}, size.vocab_size)
    tokenizer = load_tokenizer(source)
    return save_folder(destination, size, read, tokenizer, origin or told, dtype=dtype, progress=progress)


def _text_tensors(
    source: Path, size: Size, config: Mapping[str, Any], progress: Progress
) -> tuple[dict[str, tuple[str, TensorHeader]], str]:
    """Return, under our name, each tensor's stored name and header, and the folder's origin."""
    if config.get("model_type") != "gemma3":
        opened = open_folder(source, progress)
        return {name: (name, header) for name, header in read_headers(source).items()}, opened.origin
    found = dict(_renamed(source))
    expected = dict(size.parameter_shapes())
    rows, columns = found[_EMBEDDING][1].shape if _EMBEDDING in found else expected[_EMBEDDING]
    if rows > size.vocab_size:
        expected[_EMBEDDING] = (rows, columns if columns == size.hidden_size else size.hidden_size)
    check_tensors(source, {name: header for name, (_, header) in found.items()}, expected)
    return found, f"folder {source.name}, text model"


def _renamed(source: Path) -> list[tuple[str, tuple[str, TensorHeader]]]:
    renamed = []
    for stored, header in read_headers(source).items():
        if stored.startswith(_OTHER_PARTS) or stored in _TIED_HEADS:
            continue
        prefix = next((prefix for prefix in _TEXT_PREFIXES if stored.startswith(prefix)), None)
        if prefix is None:
            raise DamagedFileError(f"weights {header.file}: tensor {stored} belongs to no part of Gemma 3")
        renamed.append((_TEXT_PREFIXES[prefix] + stored.removeprefix(prefix), (stored, header)))
    return renamed


def _reader(places: Mapping[str, tuple[str, Path]], vocab_size: int) -> Callable[[str], "Tensor"]:
    """Return what reads one tensor, by our name, from wherever the source keeps it."""
    from safetensors import safe_open

    def read(name: str) -> "Tensor":
        stored, file = places[name]
        with safe_open(file, framework="pt") as weights:
            tensor: Tensor = (
                weights.get_slice(stored)[:vocab_size] if name == _EMBEDDING else weights.get_tensor(stored)
            )
        return tensor

    return read
