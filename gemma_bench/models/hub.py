"""The Hugging Face Hub as a source of weights, with every refusal turned into what to do about it."""

import errno
import io
from pathlib import Path
from typing import Any

from gemma_bench.core.errors import UnavailableError
from gemma_bench.core.files import Progress, explained, silent
from gemma_bench.models.adoption import adopt
from gemma_bench.models.catalog import Size
from gemma_bench.models.folder import ModelFolder

_FILES = ["*.safetensors", "*.safetensors.index.json", "*.json", "tokenizer.model", "*.jinja"]
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)


def from_hub(name: str, repository: str, size: Size, destination: Path, progress: Progress = silent) -> ModelFolder:
    """Download a repository into the hub's own cache, which resumes after a kill, and adopt its text model."""
    snapshot = download_snapshot(name, repository, progress)
    origin = f"{repository}@{snapshot.name[:8]} (Hugging Face Hub)"
    return adopt(snapshot, size, destination, origin=origin, progress=progress)


def download_snapshot(name: str, repository: str, progress: Progress = silent) -> Path:
    """Fetch configuration, tokenizer and safetensors of a repository.

    Raises `UnavailableError("weights")`, which says whether licence, token, repository or network is missing.
    """
    try:
        import huggingface_hub as hub
        from huggingface_hub import errors
    except ImportError as error:
        raise UnavailableError(
            "weights", 'huggingface_hub is not installed: `pip install "gemma_bench[weights]"`'
        ) from error
    network_error: Any = errors.HfHubHTTPError.__mro__[
        1
    ]  # HTTPError of httpx or httpx2, whichever this hub is built on
    by_hand = f"or copy the folder from elsewhere and run `gemma-bench download {name} --from FOLDER`"
    try:
        bar = _reporting(repository, progress)
        return Path(hub.snapshot_download(repository, allow_patterns=_FILES, tqdm_class=bar))
    except errors.GatedRepoError as error:
        raise UnavailableError("weights", f"{_licence(repository)}; {by_hand}") from error
    except errors.RepositoryNotFoundError as error:
        raise UnavailableError(
            "weights", f"{repository} is not on the Hugging Face Hub, or this token may not see it; {by_hand}"
        ) from error
    except errors.HfHubHTTPError as error:
        code = error.response.status_code
        told = _licence(repository) if code in (401, 403) else f"the Hugging Face Hub answered {code} for {repository}"
        raise UnavailableError("weights", f"{told}; {by_hand}") from error
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError, OSError, network_error) as error:
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            with explained(Path(hub.constants.HF_HUB_CACHE)):
                raise
        why = "HF_HUB_OFFLINE is set" if hub.constants.HF_HUB_OFFLINE else "the Hugging Face Hub cannot be reached"
        raise UnavailableError(
            "weights", f"{repository} is not in the local cache and {why}: connect and try again, {by_hand}"
        ) from error


def _licence(repository: str) -> str:
    return (
        f"{repository} asks for the Gemma licence: accept it at https://huggingface.co/{repository}, "
        "then run `hf auth login` (formerly `huggingface-cli login`) or set HF_TOKEN"
    )


def _reporting(repository: str, progress: Progress) -> Any:
    """Return the progress bar class that the hub asks for, drawing nothing and calling `progress` with bytes."""
    from tqdm import tqdm  # type: ignore[import-untyped, unused-ignore]

    class Reporting(tqdm):  # type: ignore[misc, type-arg, unused-ignore]
        """A bar without a screen."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **{**options, "file": io.StringIO(), "disable": False})

        def update(self, n: float | None = 1) -> bool | None:
            shown: bool | None = super().update(n)
            if self.unit == "B":
                progress(f"downloading {repository}", int(self.n), int(self.total or 0))
            return shown

    return Reporting
