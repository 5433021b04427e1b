"""The question: does set block decoding save passes at equal quality, with the real Gemma 3 270M on Python sources."""

import time
from collections.abc import Iterator
from typing import Any

from jaxtyping import Int
from torch import Tensor

from gemma_bench.core.files import Progress, silent
from gemma_bench.core.intervals import ratio_interval
from gemma_bench.experiments.set_block_completions import Completions
from gemma_bench.experiments.set_block_record import DecodingRecord
from gemma_bench.experiments.set_block_tuning import NEXT_TOKEN, SET_BLOCK, Tuning, evaluation_copy, masked_nats, tune
from gemma_bench.experiments.set_block_writing import Setting
from gemma_bench.measure.block_quality import bounds, columns
from gemma_bench.measure.writing import answer_nats
from gemma_bench.models.backend import subject
from gemma_bench.models.loading import load
from gemma_bench.training.corpus import python_documents, rows_after, spread
from gemma_bench.training.short_run import ShortRun

VERSION = 1

MINUTES = {"fixture": 1, "study": 40, "full": 9}

BASE = "base"


class Config(Tuning):
    """The model, its text, how it is trained and how it then decodes.

    Training with the block objective ends at its steps or its seconds; the control gets as many tokens. Settings are
    tried in their order until `total_budget_s` has passed since the beginning.
    """

    model: str = "270m"
    text_bytes: int = 20_000_000
    held_out_rows: int = 64
    prompts: int = 256
    prompt_tokens: int = 128
    new_tokens: int = 48
    settings: tuple[Setting, ...]
    total_budget_s: float


def _grid(*blocks: tuple[int, tuple[float, ...]]) -> tuple[Setting, ...]:
    return tuple(Setting(amount=gamma, block_tokens=block) for block, gammas in blocks for gamma in gammas)


FIXTURE = Config(
    model="tiny",
    text_bytes=40_000,
    length_tokens=64,
    batch_size=4,
    steps=20,
    budget_s=20,
    held_out_rows=8,
    prompts=16,
    prompt_tokens=24,
    new_tokens=16,
    settings=_grid((4, (0.3,)), (1, (0.3,))),
    total_budget_s=60,
)
"""Seconds: every step of the way with random weights, which shows nothing about the question."""

STUDY = Config(
    text_bytes=2_000_000,
    length_tokens=128,
    batch_size=2,
    steps=150,
    budget_s=1000,
    lora_rank=64,
    learning_rate=1e-3,
    held_out_rows=32,
    prompts=200,
    prompt_tokens=48,
    new_tokens=32,
    settings=_grid((8, (0.3, 1.0, 3.0))),
    total_budget_s=2300,
)
"""Forty minutes on two cores: LoRA, some 40,000 tokens, far too few; what they give is what is recorded."""

FULL = Config(
    length_tokens=512,
    batch_size=8,
    accumulation=2,
    steps=2000,
    budget_s=190,
    learning_rate=2e-4,
    warmup_steps=50,
    settings=(
        *_grid((16, (0.3, 1.0, 0.1, 3.0)), (8, (0.3, 1.0)), (16, (0.6,))),
        *(Setting(sampler="left", amount=gamma, block_tokens=16) for gamma in (0.3, 1.0)),
        *_grid((4, (0.3,)), (8, (0.1, 3.0)), (1, (0.3,))),
        Setting(sampler="fixed", amount=2, block_tokens=8),
        *_grid((8, (0.0,))),
    ),
    total_budget_s=490,
)
"""Nine minutes on one GPU: all weights, bfloat16 products over float32 masters."""


class SetBlockGemmaRecord(DecodingRecord):
    """One run.

    Losses are held-out nats per token, `masked` those of hidden tokens at the noise of training; what the columns of
    rows mean is said in `measure.block_quality` and `Completions.row`. `samples` are the tokens per pass.
    """

    lora_rank: int | None
    text_count_tokens: int
    set_block_steps_count: int
    set_block_count_tokens: int
    set_block_s: float
    set_block_losses_nats: tuple[float, ...]
    control_steps_count: int
    control_count_tokens: int
    control_s: float
    control_losses_nats: tuple[float, ...]
    total_s: float
    is_complete: bool
    loss_masked_nats: tuple[float, ...]
    row_s: tuple[float, ...]
    row_fewer_right_ratio: tuple[float, ...]
    row_fewer_right_low_ratio: tuple[float, ...]
    row_fewer_right_high_ratio: tuple[float, ...]
    row_agreement_ratio: tuple[float, ...]
    row_agreement_lost_ratio: tuple[float, ...]
    row_agreement_lost_low_ratio: tuple[float, ...]
    row_agreement_lost_high_ratio: tuple[float, ...]
    row_same_ratio: tuple[float, ...]
    row_distinct_ratio: tuple[float, ...]


def run(
    config: Config, *, scale: str = "fixture", device: str = "cpu", progress: Progress = silent
) -> Iterator[SetBlockGemmaRecord]:
    """Train both models, then decode until time is up; yields one record with what there is by then."""
    for setting in config.settings:
        _ = setting.method  # refuses one without a meaning before anything is trained
    start = time.monotonic()
    backend: Any = load(config.model, "torch", device, progress=progress)
    text = python_documents(backend.tokenizer, config.text_bytes, config.seed)
    models, runs = {BASE: backend.model}, dict[str, ShortRun]()
    for name in (SET_BLOCK, NEXT_TOKEN):
        steps = runs[SET_BLOCK].steps_count if runs else config.steps
        tuned, runs[name] = tune(backend, text, config, name, steps, progress)
        models[name] = evaluation_copy(tuned, backend)
    losses = _losses(models, text.held_out, config, backend.tokenizer.bos_token_id)
    deadline_s = start + config.total_budget_s
    rows, is_complete = _rows(models, text.held_out, config, backend.tokenizer, deadline_s, progress)
    yield SetBlockGemmaRecord.measured(
        subject(backend, config.seed),
        experiment="set_block_gemma",
        experiment_version=VERSION,
        config_json=config.model_dump_json(),
        scale=scale,
        samples=tuple(row["tokens_per_pass"] for row in rows),
        device=device,
        lora_rank=config.lora_rank,
        text_count_tokens=len(text.train),
        **_run_fields("set_block", runs[SET_BLOCK], config),
        **_run_fields("control", runs[NEXT_TOKEN], config),
        total_s=time.monotonic() - start,
        is_complete=is_complete,
        prompts_count=config.prompts,
        **columns("loss", losses),
        **columns("row", rows),
    )


def _run_fields(name: str, done: ShortRun, config: Config) -> dict[str, Any]:
    return {
        f"{name}_steps_count": done.steps_count,
        f"{name}_count_tokens": done.steps_count * config.step_tokens,
        f"{name}_s": done.duration_s,
        f"{name}_losses_nats": done.losses_nats,
    }


def _losses(models: dict[str, Any], text: Int[Tensor, " token"], config: Config, bos: int) -> list[dict[str, Any]]:
    """Return held-out losses per token, and how far each model's is above the control's over the same rows."""
    rows = spread(rows_after(text, config.length_tokens, bos), config.held_out_rows)
    first, rest = rows[:, :1].tolist(), rows[:, 1:].tolist()
    counts = [len(row) for row in rest]
    nats = {name: answer_nats(model, first, rest, batch_rows=16) for name, model in models.items()}
    losses = []
    for name, own in nats.items():
        gap = ratio_interval([one - other for one, other in zip(own, nats[NEXT_TOKEN], strict=True)], counts)
        over = bounds("over_control", "_nats", gap)
        masked = masked_nats(models[name], rows, config)
        losses.append({"model": name, "nats": sum(own) / sum(counts), **over, "masked_nats": masked})
    return losses


def _rows(
    models: dict[str, Any],
    text: Int[Tensor, " token"],
    config: Config,
    tokenizer: Any,
    deadline_s: float,
    progress: Progress,
) -> tuple[list[dict[str, Any]], bool]:
    """Grade one token at a time for every model, then the settings; the first one with the base model too."""
    rows_of_text = rows_after(text, config.prompt_tokens + config.new_tokens, tokenizer.bos_token_id)
    pieces = spread(rows_of_text, config.prompts).tolist()
    prompts, gold = [[row[: config.prompt_tokens] for row in pieces], [row[config.prompt_tokens :] for row in pieces]]
    completions = Completions(prompts, gold, tokenizer, models[BASE], config.mask_token)
    one_by_one, rows = dict[str, list[tuple[int, ...]]](), list[dict[str, Any]]()
    for name, model in models.items():
        begin = time.monotonic()
        one_by_one[name] = completions.one_by_one(model)
        passes = [config.new_tokens] * config.prompts
        what = {"model": name, "decoder": "next token", "block_tokens": 1, "amount": None}
        rows.append(_row(what, begin, completions.row(one_by_one[name], passes, one_by_one[name])))
    tried = [(SET_BLOCK, config.settings[0]), (BASE, config.settings[0])]
    tried += [(SET_BLOCK, setting) for setting in config.settings[1:]]
    for done, (name, setting) in enumerate(tried):
        if time.monotonic() > deadline_s:
            return rows, False
        begin = time.monotonic()
        found, passes = completions.in_blocks(models[name], setting)
        what = {"model": name, "decoder": setting.sampler, "block_tokens": setting.block_tokens}
        graded = completions.row(found, passes, one_by_one[name])
        rows.append(_row({**what, "amount": setting.amount}, begin, graded))
        progress("decoding", done + 1, len(tried))
    return rows, True


def _row(what: dict[str, Any], begin_s: float, graded: dict[str, float]) -> dict[str, Any]:
    return {**what, "s": time.monotonic() - begin_s, **graded}
