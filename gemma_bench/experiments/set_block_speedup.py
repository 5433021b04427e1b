"""The question: how many forward passes does set block decoding save, and at which loss, from templates to text."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gemma_bench.core.files import Progress, silent
from gemma_bench.core.intervals import ratio_interval
from gemma_bench.core.records import Subject
from gemma_bench.experiments.set_block_arms import (
    EQUAL_COMPUTE,
    EQUAL_TOKENS,
    SET_BLOCK,
    START,
    Recipe,
    Trained,
    train_models,
)
from gemma_bench.experiments.set_block_record import DecodingRecord
from gemma_bench.experiments.set_block_writing import Setting, written_in_blocks
from gemma_bench.measure.block_quality import Written, bounds, columns, quality
from gemma_bench.measure.writing import answer_nats, next_token_answers
from gemma_bench.training.families import EOS, MASK, Example, draw, find_family, text_of

VERSION = 1

MINUTES = {"fixture": 2, "study": 40, "full": 9}


class Config(Recipe):
    """Mixtures of families, a model for each, and how it then decodes, the setting that counts first."""

    mixtures: tuple[tuple[str, ...], ...]
    settings: tuple[Setting, ...]
    prompts: int = 400


_GRID = (
    *(Setting(amount=gamma) for gamma in (0.2, 0.0, 0.05, 0.6, 1.5, 4.0)),
    *(Setting(amount=gamma, block_tokens=block) for block in (1, 4, 16) for gamma in (0.05, 0.6)),
    *(Setting(sampler=sampler, amount=amount) for sampler in ("left", "factor") for amount in (0.2, 0.6)),
    *(Setting(sampler="fixed", amount=amount) for amount in (2, 4)),
)

FIXTURE = Config(mixtures=(("record",),), settings=(Setting(), Setting(block_tokens=1)), with_equal_compute=False)
"""A minute and a half on one core: text from a template."""

STUDY = Config(
    mixtures=(("record", "sums", "choice"), ("table",)),
    settings=_GRID,
    hidden_size=128,
    layers=4,
    heads=4,
    feed_forward=384,
    start_steps=1500,
    tuning_steps=1500,
    tuning_learning_rate=2e-3,
    budget_s=420,
    prompts=200,
)
"""Forty minutes on two cores if no training reaches its bound."""

FULL = Config(
    mixtures=(("record", "sums", "choice"), ("table",)),
    settings=_GRID,
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
    equal_tokens_count_tokens: int
    equal_compute_count_tokens: int | None
    set_block_s: float
    equal_tokens_s: float
    loss_family: tuple[str, ...]
    row_family: tuple[str, ...]


def run(
    config: Config, *, scale: str = "fixture", device: str = "cpu", progress: Progress = silent
) -> Iterator[SetBlockRecord]:
    """Train and grade a model for each mixture; yields a record for each."""
    for setting in config.settings:
        _ = setting.method  # refuses one without a meaning before anything is trained
    for mixture in config.mixtures:
        yield _measure(config, mixture, scale, device, progress)


def _measure(config: Config, mixture: Sequence[str], scale: str, device: str, progress: Progress) -> SetBlockRecord:
    trained = train_models(config, mixture, device, progress)
    judge = trained.get(EQUAL_COMPUTE, trained[EQUAL_TOKENS]).model
    rows, losses = list[dict[str, Any]](), list[dict[str, Any]]()
    for name in mixture:
        examples = draw(find_family(name), config.prompts, config.seed + 1, held_out=True)
        losses += _losses(name, trained, examples)
        rows += _rows(config, name, trained, examples, judge, progress)
    table = columns("row", rows)
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
        equal_tokens_count_tokens=trained[EQUAL_TOKENS].count_tokens,
        equal_compute_count_tokens=trained[EQUAL_COMPUTE].count_tokens if EQUAL_COMPUTE in trained else None,
        set_block_s=trained[SET_BLOCK].duration_s,
        equal_tokens_s=trained[EQUAL_TOKENS].duration_s,
        prompts_count=config.prompts,
        **columns("loss", losses),
        **table,
    )


def _losses(family: str, trained: Mapping[str, Trained], examples: Sequence[Example]) -> list[dict[str, Any]]:
    """Return the next-token loss of right answers and their `<eos>`, per token, and how far above the control's."""
    prompts = [example.prompt_tokens for example in examples]
    right = [[*example.answer.encode("ascii"), EOS] for example in examples]
    counts = list(map(len, right))
    found = {name: answer_nats(arm.model, prompts, right) for name, arm in trained.items()}
    losses = []
    for name, nats in found.items():
        more = [own - control for own, control in zip(nats, found[EQUAL_TOKENS], strict=True)]
        gap = ratio_interval(more, counts)
        over = bounds("over_control", "_nats", gap)
        losses.append({"model": name, "family": family, "nats": sum(nats) / sum(counts), **over})
    return losses


def _rows(
    config: Config,
    family: str,
    trained: Mapping[str, Trained],
    examples: Sequence[Example],
    judge: Any,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Grade one token at a time for every model, and every setting for the one with the block objective.

    The first setting is tried before that training too, where it must fail.
    """
    grade = _Grade(examples, find_family(family).answer_tokens, judge)
    one_by_one = {name: grade.one_by_one(found.model) for name, found in trained.items()}
    rows = [
        {"family": family, "model": name, **_NEXT_TOKEN, **quality(written, one_by_one[SET_BLOCK])}
        for name, written in one_by_one.items()
    ]
    tried = [(START, config.settings[0]), *((SET_BLOCK, setting) for setting in config.settings)]
    for done, (name, setting) in enumerate(tried, start=1):
        written = grade.in_blocks(trained[name].model, setting)
        what = {"decoder": setting.sampler, "block_tokens": setting.block_tokens, "amount": setting.amount}
        rows.append({"family": family, "model": name, **what, **quality(written, one_by_one[name])})
        progress(f"decoding {family}", done, len(tried))
    return rows


_NEXT_TOKEN = {"decoder": "next token", "block_tokens": 1, "amount": None}


@dataclass(frozen=True)
class _Grade:
    """Examples, and the model that says how likely an answer is."""

    examples: Sequence[Example]
    answer_tokens: int
    judge: Any

    def one_by_one(self, model: Any) -> Written:
        """Write one token per pass."""
        found = next_token_answers(model, self._prompts, self.answer_tokens, EOS)
        lengths = [min(len(tokens) + 1, self.answer_tokens) for tokens in found]
        return self._written(found, lengths, lengths)

    def in_blocks(self, model: Any, setting: Setting) -> Written:
        """Write in blocks."""
        found = written_in_blocks(model, self._prompts, self.answer_tokens, setting, MASK, (EOS,))
        return self._written(
            [answer.tokens for answer in found],
            [answer.autoregressive_passes_count for answer in found],
            [answer.passes_count for answer in found],
        )

    @property
    def _prompts(self) -> list[list[int]]:
        return [example.prompt_tokens for example in self.examples]

    def _written(self, found: Sequence[Sequence[int]], tokens: Sequence[int], passes: Sequence[int]) -> Written:
        ended = [[*answer, EOS][:count] for answer, count in zip(found, tokens, strict=True)]
        is_right = [text_of(answer) in example.right for answer, example in zip(found, self.examples, strict=True)]
        return Written(is_right, tokens, passes, answer_nats(self.judge, self._prompts, ended))
