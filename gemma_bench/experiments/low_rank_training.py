"""The question: whether ReLoRA ends below LoRA at equal tokens, each at its best rate, and what ranks they reach."""

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from gemma_bench.core.files import Progress, silent
from gemma_bench.core.kept import kept
from gemma_bench.experiments.arms_record import ArmsRecord
from gemma_bench.experiments.low_rank_arms import Arm, Course, run_arm, warm_up
from gemma_bench.experiments.low_rank_comparison import Comparison, check_memory, compare_arms
from gemma_bench.methods.relora import ReLoRA
from gemma_bench.models.catalog import SIZES, Size
from gemma_bench.training.method import Full, Lora
from gemma_bench.training.micro import MICRO

VERSION = 1
NAME = "low_rank_training"

_TIMED_STEPS = 20
"""Of the shorter of two runs that are timed; the other has twice as many."""

_SHAPE: dict[str, Any] = {"vocab_size": MICRO.vocab_size, "hub_id": None, "multimodal": False}

SMALL = Size(
    name="small",
    num_hidden_layers=4,
    hidden_size=128,
    intermediate_size=384,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    query_pre_attn_scalar=32,
    sliding_window=64,
    sliding_window_pattern=2,
    max_position_embeddings=512,
    **_SHAPE,
)
"""0.8 million parameters."""

BYTES_270M = SIZES["270m"].model_copy(update={"name": "270m over bytes", **_SHAPE})
"""The 270m's layers, 100 million parameters, under an embedding of bytes."""


class Config(BaseModel):
    """One course, a rank, and how many cycles ReLoRA goes through; LoRA also runs at the rank that these come to.

    With `budget_s` the steps are cut so that all runs fit the time, after timing ReLoRA's on this very machine.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    course: Course
    rank: int = 4
    cycles: int = 6
    rewarm_steps: int = 5
    full_rates: tuple[float, ...]
    lora_rates: tuple[float, ...]
    relora_rates: tuple[float, ...]
    matched_rates: tuple[float, ...]
    seeds: tuple[int, ...] = (1, 2, 3)
    most_extensions: int = 8
    processes: int = 0
    budget_s: float | None = None

    def comparison(self) -> Comparison:
        """Return the four arms."""
        interval = self.course.steps // self.cycles
        relora = ReLoRA(rank=self.rank, reset_interval=interval, rewarm_steps=self.rewarm_steps, rate_factor=1.0)
        arms = (
            Arm(name="full", method=Full(embeddings=False), rates=self.full_rates),
            Arm(name="lora", method=Lora(rank=self.rank), rates=self.lora_rates),
            Arm(name="relora", method=relora, rates=self.relora_rates, null_terms=self.rank),
            Arm(name="lora_matched", method=Lora(rank=self.rank * self.cycles), rates=self.matched_rates),
        )
        course = self.course.model_copy(update={"read_every": interval})
        more = self.model_dump(include={"seeds", "most_extensions", "processes"})
        return Comparison(course=course, arms=arms, **more)


FIXTURE = Config(
    course=Course(size=MICRO, warm_steps=30, steps=32, warmup_steps=4, held_out_rows=16),
    cycles=4,
    rewarm_steps=2,
    full_rates=(1e-3, 4e-3, 1.6e-2),
    lora_rates=(4e-3, 1.6e-2, 6.4e-2),
    relora_rates=(4e-3, 1.6e-2, 6.4e-2),
    matched_rates=(4e-3, 1.6e-2, 6.4e-2),
    seeds=(1,),
    processes=1,
)
"""A minute on one core: what it says is how the figures hang together, not which arm is best."""

STUDY = Config(
    course=Course(size=SMALL, warm_steps=300, steps=600, warmup_steps=30, held_out_rows=128),
    rewarm_steps=10,
    full_rates=(1e-3, 2e-3, 4e-3),
    lora_rates=(5e-3, 1e-2, 2e-2),
    relora_rates=(5e-3, 1e-2, 2e-2),
    matched_rates=(2.5e-3, 5e-3, 1e-2),
)
"""0.8 million parameters, 307,200 tokens to each arm after the warm start."""

LONG = STUDY.model_copy(update={"course": STUDY.course.longer(4), "seeds": (1, 2, 3, 4, 5)})
"""The same at four times the tokens, with five seeds."""

FULL = Config(
    course=Course(
        size=BYTES_270M,
        rows=16,
        length=512,
        warm_steps=300,
        warm_rate=1e-3,
        steps=1200,
        warmup_steps=50,
        held_out_rows=128,
        autocast=True,
    ),
    rank=32,
    cycles=4,
    rewarm_steps=20,
    full_rates=(5e-4, 1e-3, 2e-3),
    lora_rates=(1e-3, 2e-3, 4e-3),
    relora_rates=(1e-3, 2e-3, 4e-3),
    matched_rates=(1e-3, 2e-3, 4e-3),
    seeds=(1,),
    most_extensions=1,
    processes=1,
    budget_s=400,
)
"""The 270m's layers from scratch, 8,192 tokens a step, one GPU: its time decides how many steps; never run so far."""

MINUTES = {"fixture": 1, "study": 9, "long": 52, "full": 10}


def run(
    config: Config,
    *,
    scale: str = "fixture",
    device: str = "cpu",
    progress: Progress = silent,
    state: Path | None = None,
) -> Iterator[ArmsRecord]:
    """Train every arm at every rate of its grid, then at its best with every seed, and yield one record.

    What the time allows is timed once for a `state` folder: all runs that are kept there have the same steps.
    """
    fitted = config
    if config.budget_s is not None:
        steps = kept(state, "steps", partial(_steps, config, config.budget_s, device), int)
        fitted = config.model_copy(update={"course": config.course.model_copy(update={"steps": steps})})
    what: dict[str, Any] = {"experiment": NAME, "version": VERSION, "scale": scale}
    return compare_arms(fitted.comparison(), **what, device=device, progress=progress, state=state)


def _steps(config: Config, budget_s: float, device: str) -> int:
    """Time two short runs of ReLoRA and return as many steps, in whole cycles, as all runs together have time for.

    What they take whatever their steps, the readings of ranks above all, is in both; a first one, which is not counted,
    wakes the device up.
    """
    start = None
    took_s = list[float]()
    for steps in (_TIMED_STEPS, _TIMED_STEPS, 2 * _TIMED_STEPS):
        course = config.course.model_copy(update={"steps": steps, "warm_steps": _TIMED_STEPS})
        timed = config.model_copy(update={"course": course, "rewarm_steps": 0}).comparison()
        if start is None:
            check_memory(timed, device)
            start = warm_up(course, 0, device)
        began_s = time.perf_counter()
        run_arm(timed.arms[2], config.relora_rates[0], 0, timed.course, start, device)
        took_s.append(time.perf_counter() - began_s)
    _, short_s, long_s = took_s
    step_s = (long_s - short_s if long_s > short_s else long_s / 2) / _TIMED_STEPS
    beside_s = max(short_s - step_s * _TIMED_STEPS, 0)
    runs = sum(len(arm.rates) + config.most_extensions + len(config.seeds) for arm in timed.arms)
    cycle_steps = min(config.course.steps, int((budget_s / runs - beside_s) / step_s)) // config.cycles
    return max(cycle_steps, 2 * config.rewarm_steps) * config.cycles
