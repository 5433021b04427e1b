"""The question: does the test loss rise again where the data begin to exceed what a model can hold.

Strings of a rule with noise: there is something to learn and something to learn by heart. Tiny Gemma 3s train on ever
more of them, all for the same steps, and are tested on fresh strings. Capacity is measured beside: the most bits of
uniform strings that the same shape holds after the same steps at the same rate. A peak moves with training time, so
shorter runs are read as well. It is a peak of the loss, of noise predicted wrongly and with confidence.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gemma_bench.core.errors import BadInputError, InvalidRunError
from gemma_bench.core.files import Progress, silent
from gemma_bench.core.records import Record, Subject
from gemma_bench.experiments.sharing import share_out
from gemma_bench.experiments.tiny_strings import TinyGemma
from gemma_bench.measure.capacity import bits, memory
from gemma_bench.measure.likelihood import Sequences
from gemma_bench.training.stack.arms import Arm, Training
from gemma_bench.training.stack.train import Trained, train

VERSION = 1
MINUTES = {"fixture": 0.2, "study": 4}

_FEWEST_SIZES = 3


class Config(TinyGemma):
    """One shape, `fill_ratios` bits of data per parameter, all trained for the same steps, once for each of `steps`.

    Capacity is the most that uniform strings of `capacity_fills` bits per parameter make a model hold.
    """

    rule_ratio: float = 0.8
    fill_ratios: tuple[float, ...]
    capacity_fills: tuple[float, ...] = (3.6, 5.4)
    steps: tuple[int, ...]
    batch_size: int = 32
    rate: float = 0.03
    test_sequences: int = 1024

    def check(self) -> None:
        """Refuse what cannot be measured."""
        super().check()
        if not self.steps:
            raise BadInputError("steps must be given at least once, got none")
        if not 0 < self.rule_ratio < 1:
            raise BadInputError(f"rule must be between 0 and 1, so that there is noise, got {self.rule_ratio}")
        if len(self.fill_ratios) < _FEWEST_SIZES or list(self.fill_ratios) != sorted(set(self.fill_ratios)):
            raise BadInputError(
                f"a peak needs at least {_FEWEST_SIZES} rising fill ratios, got {list(self.fill_ratios)}"
            )
        if self.sequences(self.rule_ratio, self.fill_ratios[0]) < 1:
            raise BadInputError(f"data must be at least 1 sequence, got {self.fill_ratios[0]} bits per parameter")
        if self.sequences(0.0, min(self.capacity_fills, default=0.0)) < 1:
            raise BadInputError(
                f"capacity needs at least 1 sequence, got {list(self.capacity_fills)} bits per parameter"
            )
        if self.test_sequences < 1:
            raise BadInputError(f"test sequences must be at least 1, got {self.test_sequences}")


FIXTURE = Config(
    fill_ratios=(0.5, 1.0, 1.5, 2.0, 3.0), capacity_fills=(4.0,), steps=(1000,), seeds=(0,), width=8, hidden=16
)
"""A coarse curve of a thousand parameters: seconds on one core."""

STUDY = Config(
    width=8,
    hidden=16,
    fill_ratios=(0.3, 0.6, 0.9, 1.2, 1.5, 1.7, 1.9, 2.1, 2.3, 2.6, 3.2, 4.5, 8.0),
    steps=(8000, 4000),
    workers=2,
)
"""A thousand parameters, three seeds, and the same with half of the steps."""


class DescentRecord(Record):
    """Columns have a row per steps, seed and size of the data; `capacity_*` ones a row per steps and seed.

    `data_bits` is what the data tell who knows their rule. `samples` are the peaks' data over capacity, the most steps
    first.
    """

    parameters_count: int
    vocabulary_count: int
    length_tokens: int
    rule_ratio: float
    entropy_bits_per_token: float
    steps_counts: tuple[int, ...]
    seeds: tuple[int, ...]
    sequences_counts: tuple[int, ...]
    data_bits: tuple[float, ...]
    test_bits_per_token: tuple[float, ...]
    train_bits_per_token: tuple[float, ...]
    capacity_steps_counts: tuple[int, ...]
    capacity_seeds: tuple[int, ...]
    capacity_bits: tuple[float, ...]

    def column(self, name: str, steps: int, seed: int) -> list[float]:
        """Return one column's figures over the sizes of the data, for one run of the curve."""
        rows = zip(getattr(self, name), self.steps_counts, self.seeds, strict=True)
        return [figure for figure, *where in rows if where == [steps, seed]]

    def capacity(self, steps: int, seed: int) -> float:
        """Return the capacity in bits that goes with one run of the curve."""
        where = list(zip(self.capacity_steps_counts, self.capacity_seeds, strict=True))
        return self.capacity_bits[where.index((steps, seed))]

    def peak(self, steps: int, seed: int) -> "Peak":
        """Return where the test loss of one run of the curve peaks, in data over capacity."""
        held = self.capacity(steps, seed)
        ratios = [bits / held for bits in self.column("data_bits", steps, seed)]
        return peak(ratios, self.column("test_bits_per_token", steps, seed))


class Peak(NamedTuple):
    """Where a curve peaks, between which neighbours, and how much it has climbed to there since its lowest before."""

    ratio: float
    low_ratio: float
    high_ratio: float
    climbed: float


def peak(ratios: Sequence[float], losses: Sequence[float]) -> Peak:
    """Find the point to which a curve climbs most from its lowest before; one that never climbs peaks at its start."""
    climbed = np.asarray(losses) - np.minimum.accumulate(losses)
    at = int(np.argmax(climbed))
    return Peak(ratios[at], ratios[max(0, at - 1)], ratios[min(len(ratios) - 1, at + 1)], float(climbed[at]))


class Case(NamedTuple):
    """One model: the chance of its strings' rule, 0 where capacity is measured; its steps, seed and data."""

    rule: float
    steps: int
    seed: int
    fill: float


def run(
    config: Config, *, scale: str = "fixture", progress: Progress = silent, state: Path | None = None
) -> tuple[DescentRecord, ...]:
    """Train a model on every size, test each, measure capacity beside, and return one record."""
    config.check()
    kinds = [(config.rule_ratio, config.fill_ratios), (0.0, config.capacity_fills)]
    cases = [
        Case(rule, steps, seed, fill)
        for rule, fills in kinds
        for steps in config.steps
        for seed in config.seeds
        for fill in fills
    ]
    costs = [case.steps for case in cases]
    rows = share_out(partial(_measure, config=config, state=state), cases, costs, config.workers, progress)
    return (_record(config, rows, scale),)


def _measure(
    cases: Sequence[Case], worker: int, progress: Progress, *, config: Config, state: Path | None
) -> list[dict[str, Any]]:
    data = [_strings(config, case) for case in cases]
    arms = [Arm(case.seed, config.rate, case.steps) for case in cases]
    folder = None if state is None else state / f"worker-{worker}"
    trained = train(config.shape, arms, data, Training(batch=config.batch_size), progress=progress, state=folder)
    return [_row(config, *each) for each in zip(cases, data, trained, strict=True)]


def _strings(config: Config, case: Case) -> Sequences:
    count = config.sequences(case.rule, case.fill)
    return config.strings(case.rule).draw(count, case.seed, count)


def _row(config: Config, case: Case, held: Sequences, model: Trained) -> dict[str, Any]:
    """Read a model: what it saves on its own strings, and what a token costs of those and of fresh ones."""
    if model.diverged:
        raise InvalidRunError(
            "diverged", f"seed {case.seed}, {len(held)} sequences, {case.steps} steps: {model.diverged}"
        )
    law, score = config.strings(case.rule), model.scorer(config.shape)
    fresh = law.draw(config.test_sequences, case.seed, len(held), 1)
    return {
        "rule": case.rule,
        "steps_counts": case.steps,
        "seeds": case.seed,
        "sequences_counts": len(held),
        "data_bits": len(held) * law.length * law.entropy_bits,
        "saved_bits": memory(score, law.nats, [held]).saved_bits,
        "test_bits_per_token": float(bits(score(fresh)).mean()) / law.length,
        "train_bits_per_token": float(bits(score(held)).mean()) / law.length,
    }


def _record(config: Config, rows: list[dict[str, Any]], scale: str) -> DescentRecord:
    capacity = _capacities(rows)
    curves = [row for row in rows if row["rule"]]
    names = [name for name in curves[0] if name not in ("rule", "saved_bits")]
    columns = {name: tuple(row[name] for row in curves) for name in names}
    record = DescentRecord.measured(
        Subject(model_id=config.model_id, dtype="float32", seed=config.seeds[0]),
        experiment="double_descent",
        experiment_version=VERSION,
        config_json=config.model_dump_json(),
        scale=scale,
        samples=(),
        parameters_count=config.shape.parameter_count,
        vocabulary_count=config.symbols,
        length_tokens=config.length_tokens,
        rule_ratio=config.rule_ratio,
        entropy_bits_per_token=config.strings(config.rule_ratio).entropy_bits,
        **columns,
        capacity_steps_counts=tuple(steps for steps, _ in capacity),
        capacity_seeds=tuple(seed for _, seed in capacity),
        capacity_bits=tuple(capacity.values()),
    )
    return record.model_copy(update={"samples": tuple(record.peak(*where).ratio for where in capacity)})


def _capacities(rows: Sequence[dict[str, Any]]) -> dict[tuple[int, int], float]:
    """Return the most bits of uniform strings that any model held, per steps and seed."""
    found: dict[tuple[int, int], float] = {}
    for row in rows:
        if not row["rule"]:
            where = row["steps_counts"], row["seeds"]
            found[where] = max(row["saved_bits"], found.get(where, 0.0))
    if min(found.values()) <= 0:
        raise InvalidRunError("too short", f"uniform strings were not memorised at all: {found}")
    return found
