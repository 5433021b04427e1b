"""The question: what does a rank-1 step with its merge cost over a LoRA step of rank 1, by the rule that aims it."""

import json
from collections.abc import Iterator
from functools import partial

from pydantic import BaseModel, ConfigDict

from gemma_bench.core.files import Progress, silent
from gemma_bench.core.intervals import median_interval
from gemma_bench.core.records import Record, Subject
from gemma_bench.measure.bandwidth import elapsed_s
from gemma_bench.measure.comparison import Comparison, compare
from gemma_bench.measure.training_time import started
from gemma_bench.measure.turn import turn
from gemma_bench.measure.validity import watched
from gemma_bench.methods.rank_one import RULES, RankOne
from gemma_bench.training.method import Lora
from gemma_bench.training.plan import Plan, trainable_size
from gemma_bench.training.step import Training

VERSION = 1
MINUTES = {"fixture": 0.2, "study": 16}


class Config(BaseModel):
    """A model of random weights and its batch; a turn is `steps` steps, each with what the method does after it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    batch_size: int
    length: int
    dtype: str = "float32"
    rules: tuple[str, ...] = tuple(RULES)
    rounds: int = 4
    steps: int = 1


FIXTURE = Config(model="tiny", batch_size=4, length=64, steps=3)
"""Seconds: a tiny model's step is bound by calls, which a rule adds most of."""

STUDY = Config(model="270m", batch_size=4, length=256)
"""The shape of the real 270M on two cores, at the four rows that `train` reads in a step by default."""


class RankOneCostRecord(Record):
    """One rule; `samples` are the milliseconds of its steps, a turn each, `over_lora` their time over LoRA's, A B B A.

    `noise_percent` is the smallest effect that this machine could have seen in these rounds.
    """

    rule: str
    batch_size_count: int
    length_count_tokens: int
    step_ms: float
    over_lora_ratio: float
    over_lora_low_ratio: float
    over_lora_high_ratio: float
    noise_percent: float
    broken_rules: tuple[str, ...]


def run(
    config: Config, *, scale: str = "fixture", device: str = "cpu", progress: Progress = silent
) -> Iterator[RankOneCostRecord]:
    """Yield a record per rule, each timed in turn with LoRA."""
    plain = started(_plan(config, Lora(rank=1, alpha=1)), device)
    for done, rule in enumerate(config.rules):
        progress("rules", done, len(config.rules))
        ours = started(_plan(config, RankOne.model_validate({"rule": rule})), device)
        mine, theirs = (partial(_ms, training, config.steps, device) for training in (ours, plain))
        with turn() as other_bench_pid, watched(other_bench_pid) as seen:
            found = compare(mine, theirs, config.rounds)
        yield _record(config, rule, found, scale, seen.broken_rules([1e3 / sample for sample in found.a]))


def _plan(config: Config, method: Lora | RankOne) -> Plan:
    return Plan(trainable_size(config.model), method, config.batch_size, config.length, config.dtype)


def _ms(training: Training, steps: int, device: str) -> float:
    """Return the milliseconds of a step and of what the method does after it: a rank-1 method merges."""

    def work() -> None:
        for _ in range(steps):
            training.step()
            training.merge()

    return 1e3 * elapsed_s(work, device) / steps


def _record(config: Config, rule: str, found: Comparison, scale: str, broken: tuple[str, ...]) -> RankOneCostRecord:
    return RankOneCostRecord.measured(
        Subject(model_id=config.model, weights_origin="random weights", dtype=config.dtype, seed=0),
        experiment="rank_one_cost",
        experiment_version=VERSION,
        config_json=json.dumps({**config.model_dump(), "rules": [rule]}),
        scale=scale,
        samples=found.a,
        rule=rule,
        batch_size_count=config.batch_size,
        length_count_tokens=config.length,
        step_ms=median_interval(found.a).value,
        **found.ratio.named("over_lora", "ratio"),
        noise_percent=found.smallest_effect_percent,
        broken_rules=broken,
    )
