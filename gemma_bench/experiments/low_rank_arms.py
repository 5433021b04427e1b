"""One arm of a comparison of low-rank methods: a micro Gemma 3, warmed up at full rank, trained on by one method.

Every arm of a seed starts from the same weights, sees the same batches and is judged on the same held-out windows.
Embeddings and norms stay frozen in all arms after the warm start, unlike in ReLoRA's paper, so that the rank of the
change is about the projections alone and "full" means all of them.
"""

import copy
from functools import cache
from typing import Any, Self

import torch
from pydantic import BaseModel, ConfigDict, SerializeAsAny
from torch import nn

from gemma_bench.core.errors import InvalidRunError
from gemma_bench.measure.rank_evolution import Evolution, effective_weights
from gemma_bench.models.catalog import Size
from gemma_bench.training.corpus import Corpus, Windows, python_sources
from gemma_bench.training.method import Full, Options
from gemma_bench.training.micro import micro_model
from gemma_bench.training.settings import Settings
from gemma_bench.training.trainer import fit, mean_nats
from gemma_bench.training.watching import Watcher

_EVALUATION_ROWS = 16


class Course(BaseModel):
    """What all arms have in common: model, data, steps, schedule."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: Size
    rows: int = 8
    length: int = 64
    warm_steps: int = 150
    warm_rate: float = 3e-3
    steps: int = 240
    warmup_steps: int = 20
    read_every: int = 40
    held_out_rows: int = 64
    autocast: bool = False

    def settings(self, rate: float, seed: int) -> Settings:
        """Return how an arm is trained at a rate."""
        return Settings(
            iters=self.steps,
            learning_rate=rate,
            batch_size=self.rows,
            warmup_steps=self.warmup_steps,
            seed=seed,
        )

    def longer(self, times: int) -> Self:
        """Return the course with so many times the steps, warm-up included.

        The warm start has as many steps as before, but climbs over the longer warm-up: arms of two lengths do not start
        from the same weights.
        """
        return self.model_copy(update={"steps": times * self.steps, "warmup_steps": times * self.warmup_steps})

    @property
    def tokens(self) -> int:
        """Return how many tokens every arm reads."""
        return self.steps * self.rows * self.length


class Arm(BaseModel):
    """A method and the learning rates where the search for its best one begins.

    `null_terms` is how many rank-1 changes it makes between two readings, for the null model beside it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    method: SerializeAsAny[Options]
    rates: tuple[float, ...]
    null_terms: int | None = None


class Outcome(BaseModel):
    """What one arm did at one rate and seed; a run that diverged has no loss.

    Ranks are means over all matrices, reading by reading; `effective_rank_of` has every matrix's own. `trajectory` is
    the mean overlap of the leading directions at each reading with those at each other one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    arm: str
    rate: float
    seed: int
    start_nats: float
    nats: float | None = None
    trainable_count: int = 0
    steps: tuple[int, ...] = ()
    nats_at: tuple[float, ...] = ()
    rank: tuple[float, ...] = ()
    effective_rank: tuple[float, ...] = ()
    stable_rank: tuple[float, ...] = ()
    rank_of: dict[str, tuple[int, ...]] = {}
    effective_rank_of: dict[str, tuple[float, ...]] = {}
    null_effective_rank: float | None = None
    trajectory: tuple[tuple[float, ...], ...] = ()
    singular_values: dict[str, tuple[float, ...]] = {}

    @property
    def has_diverged(self) -> bool:
        """Whether the run broke off, or ended worse than it began."""
        return self.nats is None


def warm_up(course: Course, seed: int, device: str = "cpu") -> nn.Module:
    """Return a micro model after its full-rank warm start."""
    model: nn.Module = micro_model(course.size, seed=seed)
    settings = course.settings(course.warm_rate, seed).model_copy(update={"iters": course.warm_steps})
    return _fit(model, Full(), settings, course, device)


def run_arm(arm: Arm, rate: float, seed: int, course: Course, start: nn.Module, device: str = "cpu") -> Outcome:
    """Train a copy of the warmed-up model by one arm's method and read its ranks on the way."""
    model: nn.Module = copy.deepcopy(start).to(torch.device(device))
    evolution, nats_at = Evolution(effective_weights(model)), list[float]()
    before = _nats(model, course)
    known: dict[str, Any] = {"arm": arm.name, "rate": rate, "seed": seed, "start_nats": before}

    def look(step: int, now: nn.Module) -> None:
        evolution.read(step, now)
        nats_at.append(_nats(now, course))

    try:
        trained = _fit(model, arm.method, course.settings(rate, seed), course, device, Watcher(course.read_every, look))
    except InvalidRunError:
        return Outcome(**known)
    nats = nats_at[-1] if nats_at[-1] < before else None
    return Outcome(**known, nats=nats, nats_at=tuple(nats_at), **_evidence(trained, evolution, arm))


def _fit(
    model: nn.Module, method: Any, settings: Settings, course: Course, device: str, *callbacks: Watcher
) -> nn.Module:
    rows, _ = _rows(course)
    options = {"callbacks": callbacks, "device": device, "autocast": course.autocast}
    trained: nn.Module = fit(model, method, rows, settings, **options).model
    return trained


def _evidence(trained: nn.Module, evolution: Evolution, arm: Arm) -> dict[str, Any]:
    ranks = {f"{kind}_of": evolution.of_matrices(kind) for kind in ("rank", "effective_rank")}
    return {
        **{kind: evolution.means(kind) for kind in ("rank", "effective_rank", "stable_rank")},
        **ranks,
        "steps": tuple(evolution.steps),
        "trajectory": evolution.trajectory(),
        "singular_values": {name: tuple(found.values.tolist()) for name, found in evolution.spectra.items()},
        "null_effective_rank": evolution.null_effective_rank(arm.null_terms) if arm.null_terms else None,
        "trainable_count": sum(part.numel() for part in trained.parameters() if part.requires_grad),
    }


@cache
def _corpus() -> Corpus:
    return python_sources()


def _rows(course: Course) -> tuple[Windows, Windows]:
    """Return the rows to train on and those to judge on, which lie evenly over the held-out files."""
    corpus = _corpus()
    held_out = Windows(corpus.held_out, course.length)
    every = max(1, len(held_out) // course.held_out_rows)
    held_out.rows = held_out.rows[::every][: course.held_out_rows]
    return Windows(corpus.train, course.length), held_out


def _nats(model: nn.Module, course: Course) -> float:
    return mean_nats(model, _rows(course)[1], batch_size=_EVALUATION_ROWS)
