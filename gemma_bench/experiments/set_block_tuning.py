"""Training the real model for set block decoding, and its control on next tokens alone, over the same rows."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from peft import LoraConfig, get_peft_model
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from gemma_bench.core.files import Progress
from gemma_bench.core.intervals import ratio_interval
from gemma_bench.measure.writing import answer_nats
from gemma_bench.methods.set_block_training import draw_noise, set_block_loss
from gemma_bench.training.adapters import PROJECTIONS
from gemma_bench.training.corpus import Corpus, rows_after
from gemma_bench.training.head_loss import next_token_loss
from gemma_bench.training.short_run import Keep, Schedule, ShortRun, train

SET_BLOCK, NEXT_TOKEN = "set block", "next token"
"""Trained on with the block objective; trained on with as many next tokens."""


class Tuning(BaseModel):
    """How to train: all weights in float32 beside bfloat16 products on CUDA, or LoRA beside weights as they are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    length_tokens: int
    batch_size: int
    accumulation: int = 1
    steps: int
    budget_s: float
    lora_rank: int | None = None
    learning_rate: float = 1e-3
    warmup_steps: int = 20
    mask_token: int = 4
    seed: int = 0

    @property
    def step_tokens(self) -> int:
        """Return the tokens that a step trains on, counted once."""
        return self.length_tokens * self.batch_size * self.accumulation


def tune_both(
    backend: Any, text: Corpus, tuning: Tuning, progress: Progress, state: Path | None
) -> tuple[dict[str, Any], dict[str, ShortRun]]:
    """Train with the block objective, and the control on as many tokens; returns plain models and what was done."""
    models, runs = dict[str, Any](), dict[str, ShortRun]()
    for name in (SET_BLOCK, NEXT_TOKEN):
        steps = runs[SET_BLOCK].steps_count if runs else tuning.steps
        tuned, runs[name] = tune(backend, text, tuning, name, steps, progress, state)
        models[name] = evaluation_copy(tuned, backend)
    return models, runs


def tune(
    backend: Any,
    text: Corpus,
    tuning: Tuning,
    objective: str,
    steps: int,
    progress: Progress,
    state: Path | None = None,
) -> tuple[Any, ShortRun]:
    """Train a copy of a loaded model with an objective; both objectives see the same rows in the same order.

    With a `state` folder, a killed run's training goes on from its last minute.
    """
    model = _trainable(backend.model, tuning)
    rows = rows_after(text.train, tuning.length_tokens, backend.tokenizer.bos_token_id).to(backend.device)
    order, noise = (torch.Generator().manual_seed(tuning.seed) for _ in range(2))
    losses = _losses(model, rows, tuning, objective, order, noise)
    keep = None if state is None else Keep(state / f"{objective}.pt", (order, noise))
    schedule = Schedule(steps, tuning.learning_rate, tuning.warmup_steps, tuning.budget_s)
    done = train(model, losses, schedule, f"training: {objective}", progress, keep)
    return model, done


def _trainable(model: Any, tuning: Tuning) -> Any:
    copied = copy.deepcopy(model)
    if tuning.lora_rank is None:
        return copied.float()
    lora = LoraConfig(
        r=tuning.lora_rank,
        lora_alpha=2 * tuning.lora_rank,
        target_modules=list(PROJECTIONS),
        trainable_token_indices=[tuning.mask_token],
    )
    torch.manual_seed(tuning.seed)
    return get_peft_model(copied, lora)


def _losses(
    model: Any,
    rows: Int[Tensor, "row position"],
    tuning: Tuning,
    objective: str,
    order: torch.Generator,
    noise: torch.Generator,
) -> Callable[[int], Iterator[Tensor]]:
    def batch() -> Tensor:
        drawn = torch.randint(len(rows), (tuning.batch_size,), generator=order)
        return rows[drawn.to(rows.device)]

    def next_token(_: int) -> Iterator[Tensor]:
        for _ in range(tuning.accumulation):
            tokens = batch()
            with mixed_precision(model.device.type):
                loss = next_token_loss(model, tokens, torch.ones_like(tokens, dtype=torch.bool))
            yield loss / tuning.accumulation

    def set_block(_: int) -> Iterator[Tensor]:
        for _ in range(tuning.accumulation):
            tokens = batch()
            drawn = draw_noise(len(tokens), tokens.shape[1], noise)
            with mixed_precision(model.device.type):
                loss = set_block_loss(model, tokens, drawn, tuning.mask_token).total
            yield loss / tuning.accumulation

    return set_block if objective == SET_BLOCK else next_token


def evaluation_copy(tuned: Any, backend: Any) -> Any:
    """Return a trained model as a plain one in the loaded model's own precision; rotations stay in float32."""
    plain = tuned.merge_and_unload() if hasattr(tuned, "merge_and_unload") else tuned
    dtype = backend.model.dtype
    for weight in plain.parameters():
        weight.data = weight.data.to(dtype)
        weight.grad = None
    return plain.eval()


def losses_over_control(
    models: Mapping[str, Any], rows: Int[Tensor, "row position"], tuning: Tuning
) -> list[dict[str, Any]]:
    """Return held-out losses per token, and how far each model's is above the control's over the same rows."""
    first, rest = rows[:, :1].tolist(), rows[:, 1:].tolist()
    counts = [len(row) for row in rest]
    nats = {name: answer_nats(model, first, rest, batch_rows=16) for name, model in models.items()}
    losses = []
    for name, own in nats.items():
        gap = ratio_interval([one - other for one, other in zip(own, nats[NEXT_TOKEN], strict=True)], counts)
        over = gap.named("over_control", "nats")
        masked = masked_nats(models[name], rows, tuning)
        losses.append({"model": name, "nats": sum(own) / sum(counts), **over, "masked_nats": masked})
    return losses


@torch.inference_mode()
def masked_nats(model: Any, rows: Int[Tensor, "row position"], tuning: Tuning, batch_rows: int = 8) -> float:
    """Return the loss per hidden token at the noise of training, the same for every model."""
    noise, total, count = torch.Generator().manual_seed(tuning.seed + 1), 0.0, 0
    for some in rows.split(batch_rows):
        drawn = draw_noise(len(some), some.shape[1], noise)
        loss = set_block_loss(model, some.to(model.device), drawn, tuning.mask_token)
        predicted = len(some) * (some.shape[1] - 1)
        total += float(loss.masked_token) * predicted
        count += int(drawn.is_masked.sum())
    return total / count


def mixed_precision(device: str) -> AbstractContextManager[Any]:
    """Compute products in bfloat16 on CUDA, and as the weights are elsewhere."""
    # The CUDA branch was never run until a record from such a machine exists.
    return torch.autocast("cuda", torch.bfloat16) if device == "cuda" else nullcontext()
