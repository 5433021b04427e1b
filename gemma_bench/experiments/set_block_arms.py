"""The models that set block decoding is judged with, all from one start: the block objective, and its two controls."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from gemma_bench.core.files import Progress, silent
from gemma_bench.methods.set_block_training import draw_noise, set_block_loss
from gemma_bench.models.catalog import Size
from gemma_bench.training.families import MASK, VOCABULARY, Example, draw, find_family, token_rows
from gemma_bench.training.head_loss import next_token_loss
from gemma_bench.training.micro import micro_model
from gemma_bench.training.short_run import Keep, Schedule, train

START, SET_BLOCK, EQUAL_TOKENS, EQUAL_COMPUTE = "start", "set block", "equal tokens", "equal compute"
"""Trained on next tokens; on with the block objective; or on with as many next tokens, or as many multiplications."""


class Recipe(BaseModel):
    """A small model and how all of its versions are trained; `budget_s` bounds each training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden_size: int = 64
    layers: int = 3
    heads: int = 2
    feed_forward: int = 192
    pool: int = 20_000
    batch_size: int = 16
    start_steps: int = 250
    start_learning_rate: float = 4e-3
    tuning_steps: int = 900
    tuning_learning_rate: float = 5e-3
    controls: tuple[str, ...] = (EQUAL_TOKENS, EQUAL_COMPUTE)
    budget_s: float | None = None
    seed: int = 0

    @property
    def size(self) -> Size:
        """The model: heads 32 wide over one of keys and values, every third layer global, a window of 64 tokens."""
        return Size(
            name="families",
            num_hidden_layers=self.layers,
            hidden_size=self.hidden_size,
            intermediate_size=self.feed_forward,
            num_attention_heads=self.heads,
            num_key_value_heads=1,
            head_dim=32,
            query_pre_attn_scalar=32,
            sliding_window=64,
            sliding_window_pattern=3,
            max_position_embeddings=256,
            vocab_size=VOCABULARY,
            hub_id=None,
            multimodal=False,
        )


@dataclass(frozen=True)
class _Pool:
    """Rows to train on, drawn once, on the model's device."""

    rows: Int[Tensor, "example position"]
    is_counted: Bool[Tensor, "example position"]

    @classmethod
    def of(cls, examples: Sequence[Example], length: int, device: str) -> "_Pool":
        rows, is_counted = token_rows(examples, length)
        return cls(rows.to(device), is_counted.to(device))

    def batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        drawn = torch.randint(len(self.rows), (size,), generator=generator).to(self.rows.device)
        return self.rows[drawn], self.is_counted[drawn]


@dataclass(frozen=True)
class Trained:
    """A model with what its training took."""

    model: Any
    count_tokens: int
    duration_s: float


def train_models(
    recipe: Recipe,
    mixture: Sequence[str],
    device: str = "cpu",
    progress: Progress = silent,
    state: Path | None = None,
) -> dict[str, Trained]:
    """Train on next tokens, then from there with the block objective and, as the controls, on next tokens alone.

    With a `state` folder, what a killed run had trained is not trained again.
    """
    families = [find_family(name) for name in mixture]
    length = max(family.prompt_tokens + family.answer_tokens for family in families)
    examples = [
        example
        for family in families
        for example in draw(family, recipe.pool // len(families), recipe.seed, held_out=False)
    ]
    pool = _Pool.of(examples, length, device)
    start: Any = micro_model(recipe.size, seed=recipe.seed)
    start.to(device)
    steps = {START: recipe.start_steps, SET_BLOCK: recipe.tuning_steps}
    if EQUAL_TOKENS in recipe.controls:
        steps[EQUAL_TOKENS] = recipe.tuning_steps
    if EQUAL_COMPUTE in recipe.controls:
        steps[EQUAL_COMPUTE] = round(recipe.tuning_steps * compute_ratio(recipe.size))
    trained = dict[str, Trained]()
    for name, count in steps.items():
        model = copy.deepcopy(trained[START].model) if trained else start
        rate = recipe.tuning_learning_rate if trained else recipe.start_learning_rate
        schedule = Schedule(count, rate, budget_s=recipe.budget_s or math.inf)
        generator = torch.Generator().manual_seed(recipe.seed)
        losses = _losses(model, pool, recipe.batch_size, name, generator)
        keep = None if state is None else Keep(state / f"{name}.pt", (generator,))
        done = train(model, losses, schedule, f"{'+'.join(mixture)}: {name}", progress, keep)
        count_tokens = done.steps_count * recipe.batch_size * length
        trained[name] = Trained(model, count_tokens, done.duration_s)
    return trained


def compute_ratio(size: Size) -> float:
    """Return what a token costs in the block objective over what it costs in the next-token one.

    Matrices read both copies, the head all clean tokens and, at a mean mask ratio of one half, half of the noisy ones;
    attention, a few percent at these lengths, is left out.
    """
    head = size.embedding_parameter_count
    body = size.parameter_count - head
    return (2 * body + 1.5 * head) / (body + head)


def _losses(
    model: Any, pool: _Pool, batch_size: int, name: str, generator: torch.Generator
) -> Callable[[int], Iterator[Tensor]]:
    def next_token(_: int) -> Iterator[Tensor]:
        yield next_token_loss(model, *pool.batch(batch_size, generator))

    def set_block(_: int) -> Iterator[Tensor]:
        rows, is_counted = pool.batch(batch_size, generator)
        noise = draw_noise(len(rows), rows.shape[1], generator)
        yield set_block_loss(model, rows, noise, MASK, is_counted=is_counted).total

    return set_block if name == SET_BLOCK else next_token
