"""The question: how many bits does a parameter hold, and does capacity grow in proportion to parameters."""

import time
from collections.abc import Iterator, Sequence
from math import inf
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from gemma_bench.core.errors import BadInputError, InvalidRunError, UnavailableError
from gemma_bench.core.files import Progress, silent
from gemma_bench.core.records import Subject
from gemma_bench.experiments.capacity_fit import FitRecord, fit_record
from gemma_bench.experiments.capacity_points import Found, Point, measure_points
from gemma_bench.experiments.capacity_record import (
    CapacityRecord,
    capacities,
    columns,
    evidence,
    gain_percent,
    spread,
)
from gemma_bench.experiments.capacity_rows import Row
from gemma_bench.training.stack.arms import Arm, Training, steps_for
from gemma_bench.training.stack.shape import Shape, gemma3, gpt2

VERSION = 1

MINUTES = {"fixture": 1, "study": 40, "long": 120, "full": 9}


class Config(BaseModel):
    """The rows in the order of their importance; `seconds` bounds all of them together, the later ones get the rest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: tuple[Row, ...]
    seconds: float | None = None
    workers: int = 1

    def check(self) -> None:
        """Refuse what cannot be measured."""
        if not self.rows:
            raise BadInputError("rows must be at least 1, got 0")
        if self.workers < 1:
            raise BadInputError(f"workers must be at least 1, got {self.workers}")
        if self.seconds is not None and self.seconds <= 0:
            raise BadInputError(f"seconds must be above 0, got {self.seconds}")
        for row in self.rows:
            row.check()


_TINY = {"symbols": 64, "length": 16}
_FIXTURE_RATIOS = (0.25, 0.9, 1.8, 3.6, 5.4, 7.2)

FIXTURE = Config(
    rows=(Row(shape=gemma3(16, 1, hidden=40, **_TINY), ratios=_FIXTURE_RATIOS, visits=600, rates=(0.05,)),),
)
"""Tens of seconds on one core."""

STUDY = Config(
    rows=tuple(
        Row(
            shape=gemma3(16, layers, hidden=hidden, **_TINY),
            ratios=(0.9, 2.7, 4.0, 5.4),
            visits=2400,
            rates=(0.015, 0.03, 0.06),
            seeds=(0, 1, 2),
        )
        for layers, hidden in ((1, 10), (1, 40), (2, 40))
    ),
    workers=2,
)
"""2.6 to 7.1 thousand parameters, three seeds; a third layer would take longer than all others together."""

_PUBLISHED = gpt2(32, 1, symbols=2048, length=64, heads=4)
_RATES = (0.005, 0.01, 0.02, 0.04)

LONG = Config(
    rows=(
        Row(
            shape=_PUBLISHED,
            ratios=(1.0, 5.4, 8.0),
            visits=6400,
            rates=_RATES,
            seeds=(0, 1),
            training=Training(batch=64, clip=1.0, warmup_steps=500),
        ),
    ),
    workers=2,
)
"""The smallest published model itself, on the CPU: after 3,200 visits a doubling had still gained 2.3 %."""


def _full_row(shape: Shape, precision: str, share: float, **fields: object) -> Row:
    base = {"ratios": (1.0, 3.0, 4.0, 5.4, 8.0), "visits": 20_000, "rates": _RATES, "seeds": (0, 1, 2)}
    training = Training(batch=256, clip=1.0, warmup_steps=500, precision=precision)
    return Row.model_validate({"shape": shape, "training": training, "time_share": share, **base, **fields})


FULL = Config(
    rows=(
        _full_row(_PUBLISHED, "float32", 2.5),
        _full_row(_PUBLISHED, "bfloat16", 2.0),
        _full_row(gpt2(64, 1, symbols=2048, length=64, heads=4), "float32", 1.5, ratios=(3.0, 4.0, 5.4), seeds=(0, 1)),
        _full_row(gpt2(128, 1, symbols=2048, length=64, heads=4), "float32", 2.0, ratios=(3.0, 4.0, 5.4), seeds=(0,)),
        _full_row(_PUBLISHED, "pure bfloat16", 1.0, ratios=(4.0, 5.4, 8.0), seeds=(0, 1)),
    ),
    seconds=440,
)
"""The smallest published model in both precisions and two larger ones, on one GPU."""


def run(
    config: Config,
    *,
    scale: str = "fixture",
    device: str = "cpu",
    progress: Progress = silent,
    state: Path | None = None,
) -> Iterator[CapacityRecord | FitRecord]:
    """Measure one row after another and yield a record of each as it is done, then the fit over their sizes.

    Raises in the end for a row of which no run is evidence or that had no room; the others are recorded all the same.
    """
    config.check()
    began = time.monotonic()
    done: list[CapacityRecord] = []
    void: list[InvalidRunError | UnavailableError] = []
    for place, row in enumerate(config.rows):
        shares = [later.time_share for later in config.rows[place:]]
        left = None if config.seconds is None else config.seconds - (time.monotonic() - began)
        if left is not None and left <= 0:
            break
        seconds = None if left is None else left * shares[0] / sum(shares)
        folder = None if state is None else state / f"row-{place}"
        try:
            done.append(_measure(row, scale, device, config.workers, progress, folder, seconds))
        except (InvalidRunError, UnavailableError) as error:
            void.append(error)
            continue
        yield done[-1]
    exact = [record for record in done if record.dtype == "float32"]
    if len({record.parameters_count for record in exact}) > 1:
        yield fit_record(exact, config.model_dump_json(), scale, VERSION)
    if void:
        raise void[0]


def _measure(
    row: Row, scale: str, device: str, workers: int, progress: Progress, state: Path | None, seconds: float | None
) -> CapacityRecord:
    """Choose the rate, train all points of a row and read them."""
    options = (row.shape, row.training, device, workers, progress)
    held: list[float | None] = [None]
    if len(row.rates) > 1:
        probes = [_point(row, row.doubled_ratio, 0, rate, row.visits / 8) for rate in row.rates]
        tried = measure_points(probes, *options, state and state / "rates", seconds and seconds / 8)
        held = [None if found.is_void else found.saved_bits / row.shape.parameter_count for found in tried]
    rate = row.rates[max(range(len(held)), key=lambda place: -inf if held[place] is None else float(held[place] or 0))]
    whole = [_point(row, ratio, seed, rate, row.visits) for ratio in row.ratios for seed in row.seeds]
    parts = [_point(row, row.doubled_ratio, seed, rate, row.visits / part) for part in (2, 4) for seed in row.seeds]
    began = time.monotonic()
    found = measure_points([*whole, *parts], *options, state and state / "points", seconds and seconds * 7 / 8)
    return _record(
        row, scale, device, (rate, held), (found[: len(whole)], found[len(whole) :]), time.monotonic() - began
    )


def _point(row: Row, ratio: float, seed: int, rate: float, visits: float) -> Point:
    sequences = row.sequences(ratio)
    return Point(ratio, sequences, Arm(seed, rate, steps_for(round(visits), sequences, row.training.batch)))


def _record(
    row: Row,
    scale: str,
    device: str,
    chosen: tuple[float, Sequence[float | None]],
    found: tuple[Sequence[Found], Sequence[Found]],
    training_s: float,
) -> CapacityRecord:
    (whole, parts), shape = found, row.shape
    sound = evidence(whole, row.name, row.doubled_ratio)
    samples = capacities(sound, shape.parameter_count)
    capacity, doubled = spread(samples), [point for point in whole if point.point.ratio == row.doubled_ratio]
    halves, quarters = parts[: len(row.seeds)], parts[len(row.seeds) :]
    return CapacityRecord.measured(
        Subject(dtype=row.training.precision),
        experiment="capacity_scaling",
        experiment_version=VERSION,
        config_json=row.model_dump_json(),
        scale=scale,
        samples=tuple(samples),
        row=row.name,
        style=shape.style,
        layers_count=shape.layers,
        width=shape.width,
        vocabulary_count=shape.symbols,
        length_tokens=shape.length,
        parameters_count=shape.parameter_count,
        embedding_share_percent=100 * shape.symbols * shape.width / shape.parameter_count,
        device=device,
        allows_tf32=row.training.allows_tf32,
        rate=chosen[0],
        probed_rates=row.rates,
        probed_bits_per_parameter=tuple(chosen[1]),
        planned_visits_count=row.visits,
        visits_count=min(point.steps * row.training.batch / point.point.sequences for point in sound),
        **columns(sound),
        capacity_bits=capacity.value * shape.parameter_count,
        **capacity.named("capacity", "bits_per_parameter"),
        last_doubling_percent=gain_percent(doubled, halves),
        earlier_doubling_percent=gain_percent(halves, quarters),
        diverged=tuple(f"{p.point.ratio:g}, seed {p.point.arm.seed}: {p.diverged}" for p in whole if p.diverged),
        unfinished_count=sum(not point.is_finished for point in whole),
        model_steps_count=sum(point.steps for point in [*whole, *parts]),
        training_s=training_s,
    )
