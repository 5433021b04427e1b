"""The question: which part of ReLoRA does what: the merges, the reset of the moments, the jagged rate."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from gemma_bench.core.files import Progress, silent
from gemma_bench.experiments.arms_record import ArmsRecord
from gemma_bench.experiments.low_rank_arms import Arm, Course
from gemma_bench.experiments.low_rank_comparison import Comparison, compare_arms
from gemma_bench.methods.relora import ReLoRA
from gemma_bench.training.method import Lora
from gemma_bench.training.micro import MICRO

VERSION = 1
NAME = "relora_ablation"


class Config(BaseModel):
    """One course and ReLoRA's rank, cycles and re-warm steps, of which one thing at a time is left out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    course: Course
    rank: int = 4
    cycles: int = 6
    rewarm_steps: int = 5
    rates: tuple[float, ...]
    seeds: tuple[int, ...] = (1, 2, 3)
    processes: int = 0

    def comparison(self) -> Comparison:
        """Return ReLoRA, what is left of it, and LoRA."""
        interval = self.course.steps // self.cycles
        whole = ReLoRA(rank=self.rank, reset_interval=interval, rewarm_steps=self.rewarm_steps, rate_factor=1.0)
        variants: dict[str, dict[str, Any]] = {
            "relora": {},
            "moments_pruned": {"moments": "prune"},
            "moments_kept": {"moments": "keep"},
            "no_rewarm": {"rewarm_steps": 0},
            "moments_kept_no_rewarm": {"moments": "keep", "rewarm_steps": 0},
        }
        arms = [Arm(name="lora", method=Lora(rank=self.rank), rates=self.rates)] + [
            Arm(name=name, method=whole.model_copy(update=without), rates=self.rates, null_terms=self.rank)
            for name, without in variants.items()
        ]
        course = self.course.model_copy(update={"read_every": interval})
        return Comparison(course=course, arms=tuple(arms), seeds=self.seeds, processes=self.processes)


FIXTURE = Config(
    course=Course(size=MICRO, warm_steps=30, steps=32, warmup_steps=4, held_out_rows=16),
    cycles=4,
    rewarm_steps=2,
    rates=(4e-3, 1.6e-2, 6.4e-2),
    seeds=(1,),
    processes=1,
)
"""A minute on one core."""

STUDY = Config(
    course=Course(size=MICRO, steps=600, warmup_steps=30, held_out_rows=128),
    rewarm_steps=10,
    rates=(8e-3, 1.6e-2, 3.2e-2),
)
"""165 thousand parameters, 307,200 tokens to each arm after the warm start."""

LONG = STUDY.model_copy(update={"course": STUDY.course.longer(2), "seeds": (1, 2, 3, 4, 5)})
"""The same at twice the tokens, with five seeds."""

MINUTES = {"fixture": 1, "study": 8, "long": 25}


def run(
    config: Config,
    *,
    scale: str = "fixture",
    device: str = "cpu",
    progress: Progress = silent,
    state: Path | None = None,
) -> Iterator[ArmsRecord]:
    """Train every variant at every rate of its grid, then at its best with every seed, and yield one record."""
    what: dict[str, Any] = {"experiment": NAME, "version": VERSION, "scale": scale}
    return compare_arms(config.comparison(), **what, device=device, progress=progress, state=state)
