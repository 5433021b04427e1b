"""The question: whether a rank-1 update, merged at every step, trains as well as LoRA-8 with AdamW, by any rule."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from gemma_bench.core.files import Progress, silent
from gemma_bench.experiments.arms_record import ArmsRecord
from gemma_bench.experiments.low_rank_arms import Arm, Course
from gemma_bench.experiments.low_rank_comparison import Comparison, compare_arms
from gemma_bench.methods.rank_one import RankOne, descent
from gemma_bench.training.method import Full, Lora, Prepared
from gemma_bench.training.micro import MICRO
from gemma_bench.training.settings import Settings

VERSION = 1
NAME = "rank_one_rules"


class FullDescent(Full):
    """Full-rank training by plain descent: what a rank-1 step approximates."""

    embeddings: bool = False

    def prepare(self, model: Any, settings: Settings) -> Prepared:
        """Make the projections trainable, without moments."""
        found = super().prepare(model, settings)
        return Prepared(found.model, found.groups, descent)


class Config(BaseModel):
    """One course and the rates that each rule's search begins with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    course: Course
    rates: dict[str, tuple[float, ...]]
    adamw_rates: tuple[float, ...]
    lora_rates: tuple[float, ...]
    descent_rates: tuple[float, ...]
    seeds: tuple[int, ...] = (1, 2, 3)
    processes: int = 0

    def comparison(self) -> Comparison:
        """Return the rules, merged at every step, and three references."""
        every = self.course.read_every
        arms = [
            Arm(name=rule, method=RankOne.model_validate({"rule": rule}), rates=rates, null_terms=every)
            for rule, rates in self.rates.items()
        ]
        references = (
            Arm(name="lora_8", method=Lora(rank=8), rates=self.lora_rates),
            Arm(name="full_adamw", method=Full(embeddings=False), rates=self.adamw_rates),
            Arm(name="full_descent", method=FullDescent(), rates=self.descent_rates),
        )
        more = self.model_dump(include={"seeds", "processes"})
        return Comparison(course=self.course, arms=(*arms, *references), **more)


_RATES = {
    "top_pair": (0.1, 0.3, 0.9),
    "error_feedback": (0.3, 1.0, 3.0),
    "random_a": (0.03, 0.1, 0.3),
    "random_b": (0.03, 0.1, 0.3),
    "sign": (1e-3, 3e-3, 9e-3),
}

FIXTURE = Config(
    course=Course(size=MICRO, warm_steps=30, steps=32, warmup_steps=4, read_every=8, held_out_rows=16),
    rates=_RATES,
    adamw_rates=(1e-3, 4e-3, 1.6e-2),
    lora_rates=(4e-3, 1.6e-2, 6.4e-2),
    descent_rates=(0.3, 1.0, 3.0),
    seeds=(1,),
    processes=1,
)
"""Two minutes on one core."""

STUDY = Config(
    course=Course(size=MICRO, steps=480, warmup_steps=20, held_out_rows=128),
    rates=_RATES,
    adamw_rates=(2e-3, 4e-3, 8e-3),
    lora_rates=(4e-3, 8e-3, 1.6e-2),
    descent_rates=(0.3, 1.0, 3.0),
)
"""165 thousand parameters, 245,760 tokens to each arm after the warm start."""

LONG = STUDY.model_copy(update={"course": STUDY.course.longer(2), "seeds": (1, 2, 3, 4, 5)})
"""The same at twice the tokens, with five seeds."""

MINUTES = {"fixture": 2, "study": 7, "long": 22}


def run(
    config: Config,
    *,
    scale: str = "fixture",
    device: str = "cpu",
    progress: Progress = silent,
    state: Path | None = None,
) -> Iterator[ArmsRecord]:
    """Train every rule at every rate of its grid, then at its best with every seed, and yield one record."""
    what: dict[str, Any] = {"experiment": NAME, "version": VERSION, "scale": scale}
    return compare_arms(config.comparison(), **what, device=device, progress=progress, state=state)
