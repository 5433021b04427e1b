"""C sources built once per machine and version of their text, by the C compiler that is there."""

import ctypes
import hashlib
import platform
import shutil
import subprocess
import tempfile
from functools import cached_property
from pathlib import Path

from gemma_bench.core.errors import UnavailableError
from gemma_bench.models.weights import models_folder

_FLAGS = (
    *("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fassociative-math", "-fno-signed-zeros"),
    *("-fPIC", "-c"),
)


class Kernels:
    """C sources and the library that they become at first use.

    Headers are listed with the sources, since a build is named by all of their text.
    """

    def __init__(self, *sources: Path, flags: tuple[str, ...] = ()) -> None:
        """Take the sources and what the compiler is told beyond the flags of all kernels."""
        self._sources, self._flags = sources, (*_FLAGS, *flags)

    def load(self) -> ctypes.CDLL | None:
        """Return the library, or `None` where no C compiler can build it or its symbols are missing."""
        return self._found if isinstance(self._found, ctypes.CDLL) else None

    def required(self) -> ctypes.CDLL:
        """Return the library, or say why there is none."""
        if isinstance(self._found, ctypes.CDLL):
            return self._found
        raise UnavailableError("compiler", self._found)

    @cached_property
    def _found(self) -> ctypes.CDLL | str:
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if compiler is None:
            return "no C compiler is here: install gcc or clang"
        built = models_folder().parent / "kernels" / f"{self._digest()}.so"
        try:
            if not built.exists():
                self._build(compiler, built)
            return ctypes.CDLL(str(built))
        except subprocess.CalledProcessError as error:
            return f"{compiler}: {_first_error(error.stderr)}"
        except OSError as error:
            return f"{compiler}: {error}"

    def _digest(self) -> str:
        """Name a build by all that decides its code: source, flags and the machine that `native` means."""
        content = b"".join(source.read_bytes() for source in self._sources)
        told = " ".join((*self._flags, platform.node(), platform.machine()))
        return hashlib.sha256(content + told.encode()).hexdigest()[:16]

    def _build(self, compiler: str, built: Path) -> None:
        """Compile beside the place and move there, so that two builds at once do no harm.

        What OpenMP needs is left to be found when the library is loaded: torch has it, and two of them would be in each
        other's way.
        """
        built.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=built.parent) as folder:
            texts = [source for source in self._sources if source.suffix == ".c"]
            made = [Path(folder) / f"{text.stem}.o" for text in texts]
            for text, part in zip(texts, made, strict=True):
                _run(compiler, *self._flags, text, "-o", part)
            _run(compiler, "-shared", *made, "-o", Path(folder) / built.name, "-lm")
            (Path(folder) / built.name).replace(built)


def _run(*command: str | Path) -> None:
    subprocess.run(command, capture_output=True, check=True, text=True)  # noqa: S603


def _first_error(told: str) -> str:
    """Return the first line in which a compiler names an error."""
    lines = told.splitlines() or ["no reason given"]
    return next((line for line in lines if "error" in line), lines[0])
