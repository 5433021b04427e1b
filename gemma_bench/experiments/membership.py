"""The question: can a model's losses still tell what it was trained on, once the data far exceed what it can hold.

Tiny Gemma 3s visit every string of their data equally often, however many there are, so that large sets are not merely
trained too little. Capacity is the most bits that any set of uniform strings made the same shape hold. The attack is a
threshold on a string's loss; the others are fresh strings of the same law. Strings of a rule with noise are like text:
one costs more than another for what it is, which hides who was a member.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from gemma_bench.core.errors import BadInputError, InvalidRunError
from gemma_bench.core.files import Progress, silent
from gemma_bench.core.records import Record, Subject, columns
from gemma_bench.experiments.sharing import share_out
from gemma_bench.experiments.tiny_strings import TinyGemma
from gemma_bench.measure.capacity import memory
from gemma_bench.measure.likelihood import Sequences
from gemma_bench.measure.membership import attack
from gemma_bench.training.stack.arms import Arm, Training, steps_for
from gemma_bench.training.stack.train import Trained, train

VERSION = 1
MINUTES = {"fixture": 0.3, "study": 4}

_FEWEST = 8
"""Strings in a set: an attack needs 4 on each side, its control halves the others."""


class Config(TinyGemma):
    """One shape, given so many bits of data per parameter in strings of each law, each visited `visits` times."""

    rule_ratio: float = 0.8
    uniform_fill_ratios: tuple[float, ...]
    rule_fill_ratios: tuple[float, ...]
    visits: int
    batch_size: int = 32
    rate: float = 0.03
    scored_sequences: int = 4096

    def check(self) -> None:
        """Refuse what cannot be measured."""
        super().check()
        if not 0 < self.rule_ratio < 1:
            raise BadInputError(f"rule must be between 0 and 1, so that there is noise, got {self.rule_ratio}")
        if self.visits < 1:
            raise BadInputError(f"visits must be at least 1, got {self.visits}")
        if self.scored_sequences < _FEWEST:
            raise BadInputError(f"scored sequences must be at least {_FEWEST}, got {self.scored_sequences}")
        for rule, fills in self.laws():
            fewest = min((self.sequences(rule, fill) for fill in fills), default=0)
            if fewest < _FEWEST:
                raise BadInputError(f"data must be at least {_FEWEST} sequences at every fill ratio, got {fewest}")

    def laws(self) -> list[tuple[float, tuple[float, ...]]]:
        """Return how often each law's rule holds, and the fill ratios of its strings."""
        return [(0.0, self.uniform_fill_ratios), (self.rule_ratio, self.rule_fill_ratios)]


FIXTURE = Config(
    width=8,
    hidden=16,
    uniform_fill_ratios=(2.0, 20.0),
    rule_fill_ratios=(2.0, 15.0),
    visits=150,
    seeds=(0,),
    scored_sequences=256,
)
"""Seconds on one core."""

STUDY = Config(
    width=8,
    hidden=16,
    uniform_fill_ratios=(1.0, 2.5, 5.0, 12.0, 35.0, 100.0, 250.0),
    rule_fill_ratios=(1.0, 2.5, 5.0, 12.0, 35.0, 100.0),
    visits=200,
    workers=2,
)
"""A thousand parameters, three seeds, from data that fit to a hundred times too much."""


class MembershipRecord(Record):
    """Columns have a row per law, seed and size of the data, those that diverged left out; `samples` are the AUC.

    `over_capacity_ratio` is data over capacity of the same seed. `member_bits_per_sequence` is what a member costs less
    than under the law itself, `other_bits_per_sequence` is that of strings that were never seen (below zero).
    F1 uses thresholds fitted on other strings; half are members, so calling all of them so reaches `f1_floor_ratio`.
    """

    parameters_count: int
    vocabulary_count: int
    length_tokens: int
    visits_count: int
    rule_ratios: tuple[float, ...]
    seeds: tuple[int, ...]
    sequences_counts: tuple[int, ...]
    data_bits: tuple[float, ...]
    over_capacity_ratio: tuple[float, ...]
    member_bits_per_sequence: tuple[float, ...]
    other_bits_per_sequence: tuple[float, ...]
    auc_ratio: tuple[float, ...]
    auc_low_ratio: tuple[float, ...]
    auc_high_ratio: tuple[float, ...]
    f1_ratio: tuple[float, ...]
    f1_low_ratio: tuple[float, ...]
    f1_high_ratio: tuple[float, ...]
    control_auc_ratio: tuple[float, ...]
    f1_floor_ratio: float
    capacity_seeds: tuple[int, ...]
    capacity_bits: tuple[float, ...]
    diverged: tuple[str, ...]

    def sizes(self, rule: float) -> list[int]:
        """Return the sizes of the data of one law, the smallest first."""
        rows = zip(self.rule_ratios, self.sequences_counts, strict=True)
        return sorted({sequences for law, sequences in rows if law == rule})

    def column(self, name: str, rule: float, sequences: int) -> list[float]:
        """Return one column's figures for a law and a size, one for each seed."""
        rows = zip(getattr(self, name), self.rule_ratios, self.sequences_counts, strict=True)
        return [figure for figure, *where in rows if where == [rule, sequences]]


class Case(NamedTuple):
    """One model: the law of its strings, its seed and the bits of its data per parameter."""

    rule: float
    seed: int
    fill: float


def run(
    config: Config, *, scale: str = "fixture", progress: Progress = silent, state: Path | None = None
) -> tuple[MembershipRecord, ...]:
    """Train a model on every law, seed and size, attack each, and return one record."""
    config.check()
    cases = [Case(rule, seed, fill) for rule, fills in config.laws() for seed in config.seeds for fill in fills]
    costs = [config.sequences(case.rule, case.fill) for case in cases]
    rows = share_out(partial(_measure, config=config, state=state), cases, costs, config.workers, progress)
    return (_record(config, rows, scale),)


def _measure(
    cases: Sequence[Case], worker: int, progress: Progress, *, config: Config, state: Path | None
) -> list[dict[str, Any]]:
    data = [_members(config, case) for case in cases]
    arms = [
        Arm(case.seed, config.rate, steps_for(config.visits, len(members), config.batch_size))
        for case, members in zip(cases, data, strict=True)
    ]
    folder = None if state is None else state / f"worker-{worker}"
    trained = train(config.shape, arms, data, Training(batch=config.batch_size), progress=progress, state=folder)
    return [_row(config, *each) for each in zip(cases, data, trained, strict=True)]


def _members(config: Config, case: Case) -> Sequences:
    count = config.sequences(case.rule, case.fill)
    return config.strings(case.rule).draw(count, case.seed, count)


def _others(config: Config, case: Case, count: int) -> Sequences:
    """Draw strings that no model was trained on."""
    return config.strings(case.rule).draw(count, case.seed, config.sequences(case.rule, case.fill), 1)


def _row(config: Config, case: Case, members: Sequences, model: Trained) -> dict[str, Any]:
    """Read a model and attack it with as many others as members."""
    if model.diverged:
        return {"diverged": f"rule {case.rule:g}, seed {case.seed}, {len(members)} sequences: {model.diverged}"}
    law, score = config.strings(case.rule), model.scorer(config.shape)
    asked = members[: config.scored_sequences]
    fresh = _others(config, case, len(asked))
    held, unseen = memory(score, law.nats, [members]), memory(score, law.nats, [fresh])
    inside, outside = score(asked).sum(1), score(fresh).sum(1)
    found, control = attack(inside, outside), attack(outside[::2], outside[1::2])
    return {
        "rule_ratios": case.rule,
        "seeds": case.seed,
        "sequences_counts": len(members),
        "data_bits": len(members) * law.length * law.entropy_bits,
        "member_bits_per_sequence": held.saved_bits / len(members),
        "other_bits_per_sequence": unseen.saved_bits / len(fresh),
        **found.auc.named("auc", "ratio"),
        **found.f1.named("f1", "ratio"),
        "control_auc_ratio": control.auc.value,
        "f1_floor_ratio": found.f1_floor,
    }


def capacities(rows: Sequence[dict[str, Any]]) -> dict[int, float]:
    """Return per seed the most bits that any set of uniform strings made a model hold."""
    found: dict[int, float] = {}
    for row in rows:
        if row["rule_ratios"] == 0:
            held = row["sequences_counts"] * row["member_bits_per_sequence"]
            found[row["seeds"]] = max(held, found.get(row["seeds"], 0.0))
    return found


def _record(config: Config, rows: list[dict[str, Any]], scale: str) -> MembershipRecord:
    diverged = tuple(row["diverged"] for row in rows if "diverged" in row)
    sound = [row for row in rows if "diverged" not in row]
    capacity = capacities(sound)
    if min(capacity.values(), default=0.0) <= 0 or len(capacity) < len(config.seeds):
        if diverged:
            raise InvalidRunError("diverged", f"no capacity can be read for every seed: {'; '.join(diverged)}")
        raise InvalidRunError("too short", f"a seed memorised nothing: {capacity}")
    sound = [row | {"over_capacity_ratio": row["data_bits"] / capacity[row["seeds"]]} for row in sound]
    table = columns(sound)
    return MembershipRecord.measured(
        Subject(model_id=config.model_id, dtype="float32", seed=config.seeds[0]),
        experiment="membership",
        experiment_version=VERSION,
        config_json=config.model_dump_json(),
        scale=scale,
        samples=table["auc_ratio"],
        parameters_count=config.shape.parameter_count,
        vocabulary_count=config.symbols,
        length_tokens=config.length_tokens,
        visits_count=config.visits,
        **table | {"f1_floor_ratio": table["f1_floor_ratio"][0]},
        capacity_seeds=tuple(capacity),
        capacity_bits=tuple(capacity.values()),
        diverged=diverged,
    )
