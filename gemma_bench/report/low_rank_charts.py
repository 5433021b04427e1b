"""Arms of low-rank training side by side: losses and ranks on the way, where they end, and the change's spectrum."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from gemma_bench.report.chart import Cells, Chart, Dot, Dots, Lines, Series, around

if TYPE_CHECKING:
    from gemma_bench.experiments.arms_record import ArmsRecord

CAPTION = (
    "Equal tokens and batches, each arm at its own best rate. Lines are means over seeds, with the 95 % interval of "
    "Student's t around them. Ranks are of the change since the start, mean over all matrices."
)
_NEVER = "never"
_MOST_LINES = 6


def arms_charts(records: Sequence["ArmsRecord"]) -> Iterator[Chart]:
    """Yield what the newest record shows."""
    record = records[0]
    shown = _shown(record)
    yield Lines("Held-out loss", "steps", "nats per token", [_loss(record, arm) for arm in shown])
    yield _final(record)
    for ranks, name in ((record.rank, "Numeric"), (record.effective_rank, "Effective"), (record.stable_rank, "Stable")):
        series = [_course(record, arm, record.read_steps, ranks[arm]) for arm in shown]
        yield Lines(f"{name} rank of the change", "steps", "mean over matrices", series, from_zero=True)
    yield _losses_over_ranks(record, shown)
    yield from _spectrum(record, shown)
    yield from (_trajectory(record, arm) for arm in shown if "relora" in arm[:6] or arm == "top_pair")


def interval_charts(records: Sequence["ArmsRecord"]) -> Iterator[Chart]:
    """Yield loss and rank against the steps between two merges."""
    record = records[0]
    last = {arm: _ends(record.effective_rank[arm]) for arm in _sound(record)}
    losses = {arm: [n for n in record.held_out_nats[arm] if n is not None] for arm in _sound(record)}
    yield _by_interval(record, losses, "Held-out loss by merge interval", "nats per token")
    yield _by_interval(record, last, "Effective rank of the change by merge interval", "effective rank")


def _shown(record: "ArmsRecord") -> list[str]:
    """Return the arms whose course is drawn: the best ones, where there are too many to be told apart."""
    best = sorted(_sound(record), key=lambda arm: sum(nats for nats in record.held_out_nats[arm] if nats is not None))
    return [arm for arm in record.arms if arm in best[:_MOST_LINES]]


def _sound(record: "ArmsRecord") -> list[str]:
    """Return the arms that diverged with no seed: of another the survivors would be no fair sample."""
    return [arm for arm in record.arms if arm not in record.diverged_arms]


def _loss(record: "ArmsRecord", arm: str) -> Series:
    """Return an arm's loss from the common start on."""
    curves = [(start, *curve) for start, curve in zip(record.start_nats, record.curve_nats[arm], strict=True)]
    return _course(record, arm, (0, *record.read_steps), curves)


def _course(record: "ArmsRecord", arm: str, steps: Sequence[int], by_seed: Sequence[Sequence[float]]) -> Series:
    """Return an arm's mean over seeds at each reading."""
    value, low, high = zip(*(around(column) for column in zip(*by_seed, strict=True)), strict=True)
    return Series(_plain(arm), steps[: len(value)], value, low, high, colour=record.arms.index(arm))


def _losses_over_ranks(record: "ArmsRecord", arms: Sequence[str]) -> Lines:
    """Return each seed's last loss over its last effective rank: high rank is not low loss."""
    series = []
    for arm in arms:
        ends = zip(record.effective_rank[arm], record.held_out_nats[arm], strict=True)
        dots = sorted((ranks[-1], nats) for ranks, nats in ends if nats is not None)
        x, y = zip(*dots, strict=True)
        series.append(Series(_plain(arm), x, y, is_dots=True, colour=record.arms.index(arm)))
    return Lines("Loss over rank at the end: a dot per seed", "effective rank", "nats per token", series)


def _final(record: "ArmsRecord") -> Dots:
    """Return every arm's last loss, its seeds beside the interval."""
    dots = []
    for arm, found in record.held_out_nats.items():
        nats = [one for one in found if one is not None]
        if nats:
            note = " (diverged)" if arm in record.diverged_arms else ""
            dots.append(Dot(_plain(arm) + note, *around(nats), samples=nats))
    return Dots("Where they end: a dot per seed", "nats per token", dots)


def _spectrum(record: "ArmsRecord", arms: Sequence[str]) -> Iterator[Lines]:
    """Yield the singular values of one matrix's change, largest first."""
    name = next((name for arm in arms for name in record.singular_values.get(arm, ())), None)
    series = [_values(record, arm, name) for arm in arms if name in record.singular_values.get(arm, ())]
    if name and series:
        where = re.sub(r".*layers\.(\d+)\..*\.(\w+)$", r"\2 of layer \1", name)
        yield Lines(f"Singular values of the change: {where}", "place", "singular value", series, y_is_log=True)


def _values(record: "ArmsRecord", arm: str, name: str | None) -> Series:
    values = [value for value in record.singular_values[arm][name or ""] if value > 0]
    least = max(values, default=1.0) * 1e-6
    kept = [value for value in values if value > least]
    return Series(_plain(arm), range(1, len(kept) + 1), kept, colour=record.arms.index(arm), has_points=False)


def _trajectory(record: "ArmsRecord", arm: str) -> Cells:
    """Return how far the leading directions at one reading are those at another."""
    steps = [str(step) for step in record.read_steps[: len(record.trajectory[arm])]]
    shades = record.trajectory[arm]
    texts = [[f"{value:.2f}".removeprefix("0") for value in row] for row in shades]
    title = f"Leading directions of {_plain(arm)}: overlap between readings"
    return Cells(title, "step", steps, steps, shades, texts)


def _by_interval(record: "ArmsRecord", columns: Mapping[str, Sequence[float]], title: str, unit: str) -> Lines:
    """Return a series per family of arms, `relora_25` and `relora_100` being of one; a mark where it never merges."""
    families = dict.fromkeys(arm.rpartition("_")[0] for arm in record.arms)
    series, marks = [], []
    for family in families:
        of_it = {arm.rpartition("_")[2]: found for arm, found in columns.items() if arm.startswith(f"{family}_")}
        points = [(int(end), around(found)) for end, found in of_it.items() if end != _NEVER and found]
        if points:
            value, low, high = zip(*(found for _, found in points), strict=True)
            series.append(Series(family, [place for place, _ in points], value, low, high, is_dots=True))
        if of_it.get(_NEVER):
            marks.append((around(of_it[_NEVER]).value, f"{family} never merged"))
    return Lines(title, "steps between merges", unit, series, x_is_log=True, marks=marks)


def _ends(by_seed: Sequence[Sequence[float]]) -> list[float]:
    return [course[-1] for course in by_seed if course]


def _plain(arm: str) -> str:
    return arm.replace("_", " ")
