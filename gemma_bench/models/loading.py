"""One door to a loaded model, whatever the library."""

from pathlib import Path

from gemma_bench.core.errors import UnavailableError, unknown
from gemma_bench.core.files import Progress, silent
from gemma_bench.models.backend import Backend
from gemma_bench.models.folder import ModelFolder
from gemma_bench.models.weights import locate

BACKENDS = ("torch", "mlx")


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
    if backend not in BACKENDS:
        raise unknown("backend", backend, BACKENDS)
    folder = model if isinstance(model, ModelFolder) else locate(model, progress)
    progress(f"loading {folder.model_id}", 0, 1)
    loaded = _torch(folder, device, precision) if backend == "torch" else _mlx(folder, device, precision)
    progress(f"loading {folder.model_id}", 1, 1)
    return loaded


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
