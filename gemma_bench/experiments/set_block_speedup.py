"""The question: how many forward passes does set block decoding save, and at which loss, from templates to text."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gemma_bench.core.files import Progress, silent
from gemma_bench.core.intervals import ratio_interval
from gemma_bench.core.kept import kept
from gemma_bench.core.records import Subject, columns
from gemma_bench.experiments.set_block_answers import grade_family
from gemma_bench.experiments.set_block_arms import (
    EQUAL_COMPUTE,
    EQUAL_TOKENS,
    SET_BLOCK,
    START,
    Recipe,
    Trained,
    train_models,
)
from gemma_bench.experiments.set_block_record import DecodingRecord, Graded
from gemma_bench.experiments.set_block_writing import Setting
from gemma_bench.measure.writing import answer_nats
from gemma_bench.training.families import EOS, Example, draw, find_family

VERSION = 2

MINUTES = {"fixture": 2, "study": 8, "long": 120, "full": 9}


class Config(Recipe):
    """Mixtures of families, a model for each, and how it then decodes, the setting that counts first."""

    mixtures: tuple[tuple[str, ...], ...]
    settings: tuple[Setting, ...]
    prompts: int = 400


_AMOUNTS = {"entropy": (0.2, 0.0, 0.05, 0.6, 1.5, 4.0), "left": (0.2, 0.6), "factor": (0.2, 0.6), "fixed": (2, 4)}
_GRID = tuple(
    Setting(sampler=sampler, amount=amount, block_tokens=block)
    for block in (8, 4, 16)
    for sampler, amounts in _AMOUNTS.items()
    for amount in amounts
)

FIXTURE = Config(mixtures=(("record",),), settings=(Setting(),), controls=(EQUAL_TOKENS,))
"""A minute and a half on one core: text from a template."""

STUDY = Config(
    mixtures=(("record",), ("sums",), ("choice",), ("table",)),
    settings=_GRID,
    start_steps=300,
    tuning_steps=700,
    prompts=200,
)
"""Eight minutes on two cores: the fixture's model once for each family, and every sampler in every block."""

LONG = Config(
    mixtures=(("record", "sums", "choice"), ("table",)),
    settings=_GRID,
    hidden_size=128,
    layers=4,
    heads=4,
    feed_forward=384,
    start_steps=3000,
    tuning_steps=4000,
    tuning_learning_rate=2e-3,
    prompts=400,
)
"""Two hours on two cores: 0.8 million parameters, families mixed, the whole grid."""

FULL = Config(
    mixtures=(("record", "sums", "choice"), ("table",)),
    settings=tuple(setting for setting in _GRID if setting.block_tokens == Setting().block_tokens),
    hidden_size=512,
    layers=8,
    heads=8,
    feed_forward=1536,
    pool=100_000,
    batch_size=256,
    start_steps=4000,
    start_learning_rate=1e-3,
    tuning_steps=4000,
    tuning_learning_rate=5e-4,
    budget_s=40,
    prompts=400,
)
"""Nine minutes on one GPU: four trainings of at most 40 seconds for each mixture, then decoding."""


class SetBlockRecord(DecodingRecord):
    """One mixture of families, whose losses and rows have a line per family too.

    Tokens per pass count the end of the answer. `nats` are under the model that trained longest on next tokens alone.
    `samples` are the tokens per pass.
    """

    families: str
    parameters_count: int
    start_count_tokens: int
    tuning_count_tokens: int
    equal_tokens_count_tokens: int | None
    equal_compute_count_tokens: int | None
    set_block_s: float
    equal_tokens_s: float | None
    loss_family: tuple[str, ...]


def run(
    config: Config,
    *,
    scale: str = "fixture",
    device: str = "cpu",
    progress: Progress = silent,
    state: Path | None = None,
) -> Iterator[SetBlockRecord]:
    """Train and grade a model for each mixture; yields a record for each.

    With a `state` folder a killed run goes on: models that were trained and settings that were tried are read back,
    and mixtures whose record was taken are not recorded again.
    """
    for setting in config.settings:
        _ = setting.method  # refuses one without a meaning before anything is trained
    for mixture in config.mixtures:
        folder = None if state is None else state / "+".join(mixture)
        if folder is not None and (folder / "recorded.json").exists():
            continue
        yield _measure(config, mixture, scale, device, progress, folder)
        kept(folder, "recorded", lambda: True)


def _measure(
    config: Config, mixture: Sequence[str], scale: str, device: str, progress: Progress, state: Path | None
) -> SetBlockRecord:
    trained = train_models(config, mixture, device, progress, state)
    control = trained.get(EQUAL_TOKENS)
    judge = trained.get(EQUAL_COMPUTE, control or trained[START]).model
    graded, losses = Graded([], []), list[dict[str, Any]]()
    for name in mixture:
        family, folder = find_family(name), None if state is None else state / name
        examples = draw(family, config.prompts, config.seed + 1, held_out=True)
        losses += next_token_losses(name, trained, examples)
        graded += grade_family(family, examples, trained, config.settings, judge, progress, folder)
    table = columns(graded.rows, "row_")
    return SetBlockRecord.measured(
        Subject(model_id=f"families-{config.size.parameter_count}", dtype="float32", seed=config.seed),
        experiment="set_block_speedup",
        experiment_version=VERSION,
        config_json=json.dumps({"mixture": mixture, **config.model_dump()}, sort_keys=True),
        scale=scale,
        samples=table["row_tokens_per_pass"],
        families=" + ".join(mixture),
        device=device,
        parameters_count=config.size.parameter_count,
        start_count_tokens=trained[START].count_tokens,
        tuning_count_tokens=trained[SET_BLOCK].count_tokens,
        equal_tokens_count_tokens=control and control.count_tokens,
        equal_compute_count_tokens=trained[EQUAL_COMPUTE].count_tokens if EQUAL_COMPUTE in trained else None,
        set_block_s=trained[SET_BLOCK].duration_s,
        equal_tokens_s=control and control.duration_s,
        prompts_count=config.prompts,
        **columns(losses, "loss_"),
        **table,
        **columns(graded.patterns, "pattern_"),
    )


def next_token_losses(family: str, trained: Mapping[str, Trained], examples: Sequence[Example]) -> list[dict[str, Any]]:
    """Return the next-token loss of right answers and their `<eos>`, per token, and how far above the control's.

    Where there is no control, each model is compared with the one that all began as.
    """
    prompts = [example.prompt_tokens for example in examples]
    right = [[*example.answer.encode("ascii"), EOS] for example in examples]
    counts = list(map(len, right))
    found = {name: answer_nats(arm.model, prompts, right) for name, arm in trained.items()}
    losses = []
    for name, nats in found.items():
        more = [own - control for own, control in zip(nats, found.get(EQUAL_TOKENS, found[START]), strict=True)]
        gap = ratio_interval(more, counts)
        over = gap.named("over_control", "nats")
        losses.append({"model": name, "family": family, "nats": sum(nats) / sum(counts), **over})
    return losses
