"""One door to a loaded model, whatever the library."""

from importlib.util import find_spec
from pathlib import Path

from gemma_bench.core.errors import UnavailableError, unknown
from gemma_bench.core.files import Progress, silent
from gemma_bench.models.backend import Backend
from gemma_bench.models.folder import ModelFolder
from gemma_bench.models.weights import locate

BACKENDS = ("torch", "mlx")
"""The libraries whose Gemma 3 can do all that `Backend` promises."""

LLAMA = "llama.cpp"
"""A neighbour to be compared with: it reads one sequence at a time, of the 270m alone."""

_MODULES = {"torch": "torch", "mlx": "mlx", LLAMA: "llama_cpp"}


def load(
    model: str | Path | ModelFolder,
    backend: str = "torch",
    device: str | None = None,
    precision: str | None = None,
    progress: Progress = silent,
) -> Backend:
    """Load a model by name, path or opened folder.

    Without a device the fastest one of this machine is taken, without a precision that of the files. Raises
    `BadInputError` for an unknown name, which lists the known ones, and `UnavailableError` for weights, a library or a
    device that is not here.
    """
    _module(backend)
    folder = model if isinstance(model, ModelFolder) else locate(model, progress)
    progress(f"loading {folder.model_id}", 0, 1)
    loaded = _OF[backend](folder, device, precision)
    progress(f"loading {folder.model_id}", 1, 1)
    return loaded


def is_installed(backend: str) -> bool:
    """Whether a library is here; refuse one that nobody knows."""
    return find_spec(_module(backend)) is not None


def _module(backend: str) -> str:
    if backend not in _MODULES:
        raise unknown("backend", backend, _MODULES)
    return _MODULES[backend]


def _torch(folder: ModelFolder, device: str | None, precision: str | None) -> Backend:
    try:
        from gemma_bench.models.torch_backend import TorchBackend
        from gemma_bench.models.torch_quantised import QuantisedTorchBackend
    except ImportError as error:
        raise UnavailableError("torch", f'{error.name} is not installed: `pip install "gemma_bench[torch]"`') from error
    if folder.bits is not None:
        return QuantisedTorchBackend(folder, device, precision)
    return TorchBackend(folder, device, precision)


def _mlx(folder: ModelFolder, device: str | None, precision: str | None) -> Backend:
    try:
        from gemma_bench.models.backend_mlx import MlxBackend
    except ImportError as error:
        raise UnavailableError("mlx", f'{error.name} is not installed: `pip install "gemma_bench[mlx]"`') from error
    return MlxBackend(folder, device, precision)


def _llama(folder: ModelFolder, device: str | None, precision: str | None) -> Backend:
    from gemma_bench.models.backend_llama import LlamaBackend

    return LlamaBackend(folder, device, precision)


_OF = {"torch": _torch, "mlx": _mlx, LLAMA: _llama}
