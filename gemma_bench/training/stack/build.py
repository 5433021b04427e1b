"""Building the C kernels: once per machine and version of their source, by the C compiler that is there."""

import ctypes
import hashlib
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from gemma_bench.models.weights import models_folder

_HERE = Path(__file__).parent
_SOURCES = ("kernels.h", "kernels.c", "attention.c")
_FLAGS = (
    *("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fassociative-math", "-fno-signed-zeros"),
    *("-shared", "-fPIC"),
)


@cache
def kernels() -> ctypes.CDLL | None:
    """Load the kernels, built at first use; `None` where there is no C compiler that can build them."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    library = models_folder().parent / "kernels" / f"{_digest()}.so"
    if not library.exists() and not _build(compiler, library):
        return None
    return ctypes.CDLL(str(library))


def _digest() -> str:
    """Name a build by all that decides its code: source, flags and the machine that `native` means."""
    content = b"".join((_HERE / source).read_bytes() for source in _SOURCES)
    return hashlib.sha256(content + " ".join((*_FLAGS, platform.node(), platform.machine())).encode()).hexdigest()[:16]


def _build(compiler: str, library: Path) -> bool:
    """Compile beside the place and move there, so that two builds at once do no harm."""
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        built = Path(folder) / library.name
        sources = [str(_HERE / source) for source in _SOURCES if source.endswith(".c")]
        done = subprocess.run([compiler, *_FLAGS, *sources, "-o", str(built), "-lm"], capture_output=True, check=False)  # noqa: S603
        if done.returncode == 0:
            built.replace(library)
    return library.exists()
