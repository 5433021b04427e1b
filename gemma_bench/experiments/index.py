"""The experiments that there are, read from their text: nothing heavy is imported before one runs."""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

from gemma_bench.claims.claim import SCALES
from gemma_bench.core.errors import UnavailableError, unknown

_LIBRARIES = {"torch": "torch", "transformers": "torch", "mlx": "mlx", "mlx_lm": "mlx", "peft": "train"}
"""Which extra of the package brings a library."""


@dataclass(frozen=True)
class Experiment:
    """A module of this package that has presets, and the minutes that each takes, where the module says it.

    Minutes are of two cores, at scale `full` of one GPU.
    """

    name: str
    question: str
    minutes: Mapping[str, float | None]

    def check_scale(self, scale: str) -> None:
        """Refuse a scale that there is no preset for."""
        if scale not in self.minutes:
            raise unknown(f"scale of {self.name}", scale, self.minutes)

    def module(self) -> ModuleType:
        """Import the module; raises `UnavailableError` where a library that it needs is missing."""
        try:
            return import_module(f"{__package__}.{self.name}")
        except ModuleNotFoundError as error:
            library = (error.name or "").partition(".")[0]
            if library not in _LIBRARIES:
                raise
            extra = f'pip install "gemma_bench[{_LIBRARIES[library]}]"'
            raise UnavailableError(
                library, f"{self.name} needs {library}, which is not installed: `{extra}`"
            ) from error


@cache
def experiments() -> dict[str, Experiment]:
    """Return every experiment by its name."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return {found.name: found for file in files if (found := _read(file))}


def find(name: str) -> Experiment:
    """Return an experiment; an unknown name lists those there are."""
    if name not in experiments():
        raise unknown("experiment", name, experiments())
    return experiments()[name]


def _read(file: Path) -> Experiment | None:
    """Read name, question, presets and minutes; a module without a preset is no experiment."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    values = dict(_assigned(tree))
    scales = [scale for scale in SCALES if scale.upper() in values]
    if not scales:
        return None
    minutes = ast.literal_eval(values["MINUTES"]) if "MINUTES" in values else {}
    question = (ast.get_docstring(tree) or "").partition("\n")[0].removeprefix("The question: ")
    return Experiment(file.stem, question, {scale: minutes.get(scale) for scale in scales})


def _assigned(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                yield name, value
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                yield name, value
