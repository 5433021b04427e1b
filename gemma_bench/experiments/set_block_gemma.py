"""The question: does set block decoding save passes at equal quality, with Gemma 3 270M on Python sources.

The weights are the released ones, or on a machine without them a model of that shape, initialised and trained here.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from gemma_bench.core.files import Progress, silent
from gemma_bench.core.kept import kept
from gemma_bench.core.records import columns
from gemma_bench.experiments.set_block_completions import Completions, grade
from gemma_bench.experiments.set_block_record import DecodingRecord
from gemma_bench.experiments.set_block_start import START_FIELDS, Start, first_model, start
from gemma_bench.experiments.set_block_tuning import NEXT_TOKEN, SET_BLOCK, losses_over_control, tune_both
from gemma_bench.experiments.set_block_writing import Setting
from gemma_bench.models.backend import subject
from gemma_bench.training.corpus import python_documents, rows_after, spread
from gemma_bench.training.short_run import ShortRun
from gemma_bench.training.text_vocabulary import TextVocabulary

VERSION = 1

MINUTES = {"fixture": 1, "study": 15, "long": 240, "full": 9}

BASE = "base"


class Config(Start):
    """The model, its text, how it is trained and how it then decodes.

    Training with the block objective ends at its steps or its seconds; the control gets as many tokens. Settings are
    tried in their order until training, losses and settings took `total_budget_s`. With `text_vocabulary` every model,
    the base too, keeps the rows of embedding and head whose tokens occur in the text, and no others.
    """

    text_vocabulary: bool = False
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
    text_vocabulary=True,
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
    dtype="float32",
    text_vocabulary=True,
    text_bytes=1_000_000,
    length_tokens=128,
    batch_size=2,
    steps=120,
    budget_s=2700,
    lora_rank=16,
    learning_rate=1e-3,
    held_out_rows=16,
    prompts=200,
    prompt_tokens=32,
    new_tokens=16,
    settings=_grid((8, (0.3, 1.0, 3.0))),
    total_budget_s=6000,
)
"""A quarter of an hour on two idle cores: LoRA, 30,000 tokens, far too few; what they give is what is recorded.

Seconds bound nothing but a machine that is busy with other things, where steps and settings should stay the same.
The vocabulary is the text's, whose head costs a twentieth of the whole one's; a CPU without bfloat16 is five times
faster in float32.
"""

FULL = Config(
    start_steps=2000,
    start_budget_s=120,
    length_tokens=512,
    batch_size=8,
    accumulation=2,
    steps=2000,
    budget_s=120,
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
"""Nine minutes on one GPU without a network: a model of bytes is initialised, trained on next tokens, then both ways.

All weights, bfloat16 products over float32 masters.
"""

LONG = Config(
    dtype="float32",
    text_bytes=4_000_000,
    length_tokens=128,
    batch_size=4,
    steps=1000,
    budget_s=6000,
    lora_rank=64,
    learning_rate=1e-3,
    prompts=400,
    prompt_tokens=48,
    new_tokens=32,
    settings=FULL.settings,
    total_budget_s=14_000,
)
"""Four hours on two cores: LoRA, half a million tokens, the whole vocabulary and the settings of the GPU."""


class SetBlockGemmaRecord(DecodingRecord):
    """One run.

    Losses are held-out nats per token, `masked` those of hidden tokens at the noise of training; what the columns of
    rows mean is said in `measure.block_quality` and `Completions`. `samples` are the tokens per pass. `total_s` are
    the seconds of trainings and rows. What `start` did is there for a model that was initialised here.
    """

    lora_rank: int | None
    vocabulary_count: int
    text_count_tokens: int
    set_block_steps_count: int
    set_block_count_tokens: int
    set_block_s: float
    set_block_losses_nats: tuple[float, ...]
    control_steps_count: int
    control_count_tokens: int
    control_s: float
    control_losses_nats: tuple[float, ...]
    start_steps_count: int | None = None
    start_count_tokens: int | None = None
    start_s: float | None = None
    start_losses_nats: tuple[float, ...] = ()
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
    config: Config,
    *,
    scale: str = "fixture",
    device: str = "cpu",
    progress: Progress = silent,
    state: Path | None = None,
) -> Iterator[SetBlockGemmaRecord]:
    """Train both models, then decode until time is up; yields one record with what there is by then.

    With a `state` folder a killed run goes on, a training from its last minute.
    """
    for setting in config.settings:
        _ = setting.method  # refuses one without a meaning before anything is trained
    backend = first_model(config, device, progress)
    text, bos = python_documents(backend.tokenizer, config.text_bytes, config.seed), backend.tokenizer.bos_token_id
    vocabulary = TextVocabulary.of(text) if config.text_vocabulary else TextVocabulary.whole(backend.size.vocab_size)
    vocabulary.cut(backend.model)
    text = vocabulary.renamed(text)
    begun = start(backend, text, config, progress, state)
    tuned, runs = tune_both(backend, text, config, progress, state)
    models = {BASE: backend.model, **tuned}
    trained_s = sum(done.duration_s for done in (*begun.values(), *runs.values()))
    rows = spread(rows_after(text.held_out, config.length_tokens, bos), config.held_out_rows)
    losses = kept(state, "losses", partial(losses_over_control, models, rows, config))
    pieces = spread(rows_after(text.held_out, config.prompt_tokens + config.new_tokens, bos), config.prompts).tolist()
    decode = partial(vocabulary.decode, backend.tokenizer)
    completions = Completions.of_rows(pieces, config.prompt_tokens, decode, backend.model, config.mask_token)
    graded, is_complete = grade(
        completions, models, _ways(config.settings), config.total_budget_s - trained_s, progress, state
    )
    yield SetBlockGemmaRecord.measured(
        subject(backend, config.seed),
        experiment="set_block_gemma",
        experiment_version=VERSION,
        config_json=config.model_dump_json(exclude=None if begun else START_FIELDS),
        scale=scale,
        samples=tuple(row["tokens_per_pass"] for row in graded.rows),
        device=device,
        lora_rank=config.lora_rank,
        vocabulary_count=len(vocabulary.ids),
        text_count_tokens=len(text.train),
        **_run_fields({**begun, "set_block": runs[SET_BLOCK], "control": runs[NEXT_TOKEN]}, config),
        total_s=trained_s + sum(row["s"] for row in graded.rows),
        is_complete=is_complete,
        prompts_count=config.prompts,
        **columns(losses, "loss_"),
        **columns(graded.rows, "row_"),
        **columns(graded.patterns, "pattern_"),
    )


def _ways(settings: Sequence[Setting]) -> list[tuple[str, Setting | None]]:
    """Return what is graded, what counts most first: one token at a time, the settings, then control and base."""
    own = [(SET_BLOCK, setting) for setting in (None, *settings)]
    return [*own, (NEXT_TOKEN, None), (BASE, None), (BASE, settings[0])]


def _run_fields(runs: Mapping[str, ShortRun], config: Config) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, done in runs.items():
        fields[f"{name}_steps_count"] = done.steps_count
        fields[f"{name}_count_tokens"] = done.steps_count * config.step_tokens
        fields[f"{name}_s"] = done.duration_s
        fields[f"{name}_losses_nats"] = done.losses_nats
    return fields
