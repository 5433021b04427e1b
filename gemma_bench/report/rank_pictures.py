"""One run's picture: how the rank of its change grows, its spectrum, where its directions go."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gemma_bench.measure.rank_evolution import RankReadings
from gemma_bench.report.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RANKS = {"rank": "numeric rank", "effective_rank": "effective rank", "stable_rank": "stable rank"}
_LEAST_SHOWN = 1e-8


def run_picture(evolution: RankReadings, title: str) -> "Figure":
    """Draw one run: ranks over steps, effective rank of every matrix, spectra, and the way of leading directions."""
    figure, ((means, ranks), (spectrum, way)) = new_figure(2, 2)
    for kind, label in RANKS.items():
        means.plot(evolution.steps, evolution.means(kind), "o-", markersize=3, label=label)
    means.set(xlabel="steps", ylabel=f"mean over {len(evolution.readings)} matrices", ylim=(0, None))
    means.legend(fontsize="small")
    matrix_map(ranks, evolution.steps, evolution.of_matrices("effective_rank"), "effective rank of every matrix")
    spectrum_lines(spectrum, _by_kind({name: found.values.tolist() for name, found in evolution.spectra.items()}))
    spectrum.set_title(f"last reading, step {evolution.steps[-1]}; a line per type", fontsize="medium")
    trajectory_map(way, evolution.steps, evolution.trajectory(), "overlap of leading directions")
    figure.suptitle(title)
    return figure


def matrix_map(axes: Any, steps: Sequence[int], of: Mapping[str, Sequence[float]], title: str) -> None:
    """Draw a value of every matrix over steps, a row each: layers within types, types one below the other."""
    names = sorted(of, key=_place)
    kinds = [_place(name)[0] for name in names]
    image = axes.imshow(np.array([of[name] for name in names]), aspect="auto", interpolation="nearest")
    axes.figure.colorbar(image, ax=axes)
    axes.set_yticks([kinds.index(kind) for kind in dict.fromkeys(kinds)], list(dict.fromkeys(kinds)), va="top")
    _step_ticks(axes.set_xticks, steps)
    axes.set(xlabel="steps", ylabel="type, layers downwards")
    axes.set_title(title, fontsize="medium")


def trajectory_map(axes: Any, steps: Sequence[int], overlaps: Sequence[Sequence[float]], title: str) -> None:
    """Draw the overlap of the leading directions at each reading with those at each other one, from 0 to 1."""
    image = axes.imshow(np.array(overlaps), vmin=0, vmax=1, cmap="magma", origin="lower", interpolation="nearest")
    axes.figure.colorbar(image, ax=axes)
    _step_ticks(axes.set_xticks, steps)
    _step_ticks(axes.set_yticks, steps)
    axes.set(xlabel="steps", ylabel="steps")
    axes.set_title(title, fontsize="medium")


def spectrum_lines(axes: Any, spectra: Mapping[str, Sequence[float]]) -> None:
    """Draw singular values over their number, as shares of the largest, on a logarithmic axis."""
    for label, values in spectra.items():
        shares = np.array(values) / max(values[0], np.finfo(float).tiny)
        axes.plot(range(1, len(shares) + 1), np.where(shares > _LEAST_SHOWN, shares, np.nan), label=label)
    axes.set(xlabel="singular value's number", ylabel="singular value over the largest", yscale="log")
    axes.legend(fontsize="small")


def _place(name: str) -> tuple[str, int]:
    """Return a matrix's type and layer: `model.layers.3.mlp.up_proj` is up_proj of layer 3."""
    *path, kind = name.split(".")
    return kind, next((int(part) for part in path if part.isdigit()), -1)


def _by_kind(spectra: Mapping[str, Sequence[float]]) -> dict[str, Sequence[float]]:
    """Return the spectrum of one matrix of each type: that of its middle layer."""
    kinds: dict[str, list[str]] = {}
    for name in sorted(spectra, key=_place):
        kinds.setdefault(_place(name)[0], []).append(name)
    shown = (names[len(names) // 2] for names in kinds.values())
    return {name.replace("model.layers.", ""): spectra[name] for name in shown}


def _step_ticks(put: Any, steps: Sequence[int]) -> None:
    places = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), 6)).round().astype(int))
    put(places, [str(steps[place]) for place in places])
