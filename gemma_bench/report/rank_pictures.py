"""Pictures of low-rank training: losses, how the rank of the change grows, its spectrum, where its directions go."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gemma_bench.core.intervals import median_interval
from gemma_bench.experiments.arms_record import ArmsRecord
from gemma_bench.measure.rank_evolution import RankReadings
from gemma_bench.report.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RANKS = {"rank": "numeric rank", "effective_rank": "effective rank", "stable_rank": "stable rank"}
_COLORS = 10
_LEAST_SHOWN = 1e-8


def arms_picture(record: ArmsRecord) -> "Figure":
    """Draw held-out losses and three ranks over steps, with intervals over seeds, and one matrix's spectrum by arm."""
    figure, panels = new_figure(3, 2)
    loss, *ranks, spectrum, final = panels.flat
    start = tuple((nats,) for nats in record.start_nats)
    for number, arm in enumerate(record.arms):
        curves = [(*before, *after) for before, after in zip(start, record.curve_nats[arm], strict=True)]
        _band(loss, (0, *record.read_steps), curves, _label(record, arm), number)
        for axes, kind in zip(ranks, RANKS, strict=True):
            _band(axes, record.read_steps, getattr(record, kind)[arm], arm, number)
    loss.set(xlabel="steps", ylabel="held-out nats per token")
    loss.legend(fontsize="small", title="arm, its best rate")
    for axes, title in zip(ranks, RANKS.values(), strict=True):
        axes.set(xlabel="steps", ylabel=f"{title} of the change, mean over matrices", ylim=(0, None))
    name = _widest_common(record.singular_values.values())
    spectrum_lines(spectrum, {arm: found[name] for arm, found in record.singular_values.items() if name in found})
    spectrum.set_title(f"{name or 'no matrix'}, first seed", fontsize="medium")
    _losses_over_ranks(final, record)
    size = f"{record.parameters_count:,} parameters, {record.tokens_count:,} tokens to each arm"
    figure.suptitle(f"{record.experiment}: {record.model_id}, {size}")
    return figure


def directions_picture(record: ArmsRecord) -> "Figure":
    """Draw for each arm the effective rank of every matrix over steps, and the overlaps of its leading directions."""
    arms = [arm for arm in record.arms if record.effective_rank_of[arm]]
    figure, panels = new_figure(2, max(len(arms), 1))
    for (ranks, way), arm in zip(panels, arms, strict=False):
        steps = record.read_steps[: len(record.trajectory[arm])]
        matrix_map(ranks, steps, record.effective_rank_of[arm], f"{arm}: effective rank")
        trajectory_map(way, steps, record.trajectory[arm], f"{arm}: overlap of leading directions")
    figure.suptitle(f"{record.experiment}: every matrix, and where directions go (first seed)")
    return figure


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


def _band(axes: Any, steps: Sequence[int], curves: Iterable[Sequence[float]], label: str, number: int) -> None:
    """Draw the median of the seeds' curves and its interval; those of runs that diverged are not there."""
    whole = [curve for curve in curves if len(curve) == len(steps)]
    if not whole:
        axes.plot([], [], color=f"C{number}", label=f"{label}, diverged")
        return
    middle, low, high = zip(*(median_interval(column) for column in zip(*whole, strict=True)), strict=True)
    line = "o-" if number < _COLORS else "o--"
    axes.plot(steps, middle, line, color=f"C{number}", markersize=3, label=label)
    axes.fill_between(steps, low, high, color=f"C{number}", alpha=0.2, linewidth=0)


def _losses_over_ranks(axes: Any, record: ArmsRecord) -> None:
    """Draw each seed's final loss over its final effective rank: high rank is not low loss."""
    for number, arm in enumerate(record.arms):
        ranks = [curve[-1] if curve else None for curve in record.effective_rank[arm]]
        pairs = zip(ranks, record.held_out_nats[arm], strict=True)
        dots = [(rank, nats) for rank, nats in pairs if rank is not None and nats is not None]
        if dots:
            axes.plot(*zip(*dots, strict=True), "o" if number < _COLORS else "x", color=f"C{number}")
    axes.set(xlabel="effective rank at the end", ylabel="held-out nats per token at the end")


def _label(record: ArmsRecord, arm: str) -> str:
    return f"{arm}, {record.rates[arm]:.2g}"


def _place(name: str) -> tuple[str, int]:
    """Return a matrix's type and layer: `model.layers.3.mlp.up_proj` is up_proj of layer 3."""
    *path, kind = name.split(".")
    return kind, next((int(part) for part in path if part.isdigit()), -1)


def _widest_common(spectra: Iterable[Mapping[str, Sequence[float]]]) -> str | None:
    """Return the matrix with most singular values that some arm has, the last of its equals."""
    sizes = {name: len(values) for one in spectra for name, values in one.items()}
    return max(sizes, key=lambda name: (sizes[name], _place(name)), default=None)


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
