"""C sources built once per machine and version of their text, by the C compiler that is there."""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from gemma_bench.models.weights import models_folder

_FLAGS = (
    *("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fassociative-math", "-fno-signed-zeros"),
    *("-fPIC", "-c"),
)


@cache
def library(sources: Sequence[Path], *flags: str) -> ctypes.CDLL | None:
    """Load what `sources` hold, built at first use; `None` where no C compiler can build it or its symbols are missing.

    Headers are listed with the sources, since a build is named by all of their text.
    """
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    built = models_folder().parent / "kernels" / f"{_digest(sources, flags)}.so"
    if not built.exists() and not _build(compiler, sources, flags, built):
        return None
    try:
        return ctypes.CDLL(str(built))
    except OSError:
        return None


def _digest(sources: Sequence[Path], flags: Sequence[str]) -> str:
    """Name a build by all that decides its code: source, flags and the machine that `native` means."""
    content = b"".join(source.read_bytes() for source in sources)
    told = " ".join((*_FLAGS, *flags, platform.node(), platform.machine()))
    return hashlib.sha256(content + told.encode()).hexdigest()[:16]


def _build(compiler: str, sources: Sequence[Path], flags: Sequence[str], built: Path) -> bool:
    """Compile beside the place and move there, so that two builds at once do no harm.

    What OpenMP needs is left to be found when the library is loaded: torch has it, and two of them would be in each
    other's way.
    """
    built.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=built.parent) as folder:
        texts = {str(Path(folder) / f"{source.stem}.o"): str(source) for source in sources if source.suffix == ".c"}
        commands = [[compiler, *_FLAGS, *flags, text, "-o", made] for made, text in texts.items()]
        commands.append([compiler, "-shared", *texts, "-o", os.fspath(Path(folder) / built.name), "-lm"])
        for command in commands:
            if subprocess.run(command, capture_output=True, check=False).returncode:  # noqa: S603
                return False
        (Path(folder) / built.name).replace(built)
    return True
