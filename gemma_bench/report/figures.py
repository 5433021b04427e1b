"""Figures of matplotlib as files."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gemma_bench.core.errors import UnavailableError
from gemma_bench.core.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 120
_WIDTH, _HEIGHT = 6.5, 4.5


def new_figure(columns: int, rows: int = 1) -> tuple["Figure", Any]:
    """Return a figure and its panels, rows × columns; no window and no global state of pyplot."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UnavailableError("matplotlib", 'pictures need matplotlib: `pip install "gemma_bench[plots]"`') from error
    figure = Figure(figsize=(_WIDTH * columns, _HEIGHT * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def save(figure: "Figure", path: Path) -> None:
    """Write a figure as a PNG, whole or not at all."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=_DPI)
    write_bytes(path, stream.getvalue())
