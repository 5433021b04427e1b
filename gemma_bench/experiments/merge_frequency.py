"""The question: how often a low-rank update should be merged: at every step, rarely, never."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from gemma_bench.core.files import Progress, silent
from gemma_bench.experiments.arms_record import ArmsRecord
from gemma_bench.experiments.low_rank_arms import Arm, Course
from gemma_bench.experiments.low_rank_comparison import Comparison, compare_arms
from gemma_bench.methods.rank_one import RankOne
from gemma_bench.methods.relora import ReLoRA
from gemma_bench.training.method import Lora
from gemma_bench.training.micro import MICRO

VERSION = 1
NAME = "merge_frequency"


class Config(BaseModel):
    """One course, the intervals between merges, in steps, and ReLoRA's rank; a last arm of each never merges.

    Rank-1 updates learn by AdamW with moments forgotten at each merge; ReLoRA's rate is jagged, theirs is not.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    course: Course
    rank: int = 4
    rewarm_steps: int = 5
    relora_intervals: tuple[int, ...]
    rank_one_intervals: tuple[int, ...]
    relora_rates: tuple[float, ...]
    rank_one_rates: tuple[float, ...]
    seeds: tuple[int, ...] = (1, 2, 3)
    processes: int = 0

    def comparison(self) -> Comparison:
        """Return an arm per interval, named `relora_100`, `rank1_4`, …, and those that never merge."""
        relora = [
            Arm(name=f"relora_{interval}", method=self._relora(interval), rates=self.relora_rates)
            for interval in self.relora_intervals
        ]
        rank_one = [
            Arm(name=f"rank1_{interval}", method=self._rank_one(interval), rates=self.rank_one_rates)
            for interval in self.rank_one_intervals
        ]
        never = (
            Arm(name="relora_never", method=Lora(rank=self.rank), rates=self.relora_rates),
            Arm(name="rank1_never", method=self._rank_one(self.course.steps), rates=self.rank_one_rates),
        )
        more = self.model_dump(include={"seeds", "processes"})
        return Comparison(course=self.course, arms=(*relora, *rank_one, *never), **more)

    def _relora(self, interval: int) -> ReLoRA:
        return ReLoRA(rank=self.rank, reset_interval=interval, rewarm_steps=self.rewarm_steps, rate_factor=1.0)

    def _rank_one(self, interval: int) -> RankOne:
        return RankOne(rule="sign", merge_freq=interval)


FIXTURE = Config(
    course=Course(size=MICRO, warm_steps=30, steps=32, warmup_steps=4, read_every=8, held_out_rows=16),
    rewarm_steps=2,
    relora_intervals=(8, 16),
    rank_one_intervals=(1, 4),
    relora_rates=(4e-3, 1.6e-2, 6.4e-2),
    rank_one_rates=(1e-3, 4e-3, 1.6e-2),
    seeds=(1,),
    processes=1,
)
"""A minute on one core."""

STUDY = Config(
    course=Course(size=MICRO, steps=1000, warmup_steps=30, read_every=100, held_out_rows=128),
    relora_intervals=(50, 100, 200),
    rank_one_intervals=(1, 2, 4, 16, 64),
    relora_rates=(8e-3, 1.6e-2, 3.2e-2),
    rank_one_rates=(2e-3, 4e-3, 8e-3),
)
"""165 thousand parameters, 512,000 tokens to each arm: an interval of 200 makes five cycles of the run."""

LONG = STUDY.model_copy(
    update={"course": STUDY.course.longer(2), "relora_intervals": (100, 200, 400), "seeds": (1, 2, 3, 4, 5)}
)
"""Twice the tokens and five seeds, an interval of 400 making five cycles."""

MINUTES = {"fixture": 1, "study": 18, "long": 53}


def run(
    config: Config,
    *,
    scale: str = "fixture",
    device: str = "cpu",
    progress: Progress = silent,
    state: Path | None = None,
) -> Iterator[ArmsRecord]:
    """Train at every interval and every rate of its grid, then at its best with every seed, and yield one record."""
    what: dict[str, Any] = {"experiment": NAME, "version": VERSION, "scale": scale}
    return compare_arms(config.comparison(), **what, device=device, progress=progress, state=state)
