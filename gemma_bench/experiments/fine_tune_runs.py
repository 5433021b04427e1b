"""The runs behind `fine_tune_memorization`: one base, one reference, then a fine-tune for every size of data."""

from dataclasses import dataclass
from functools import partial
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from gemma_bench.core.errors import BadInputError
from gemma_bench.core.files import Progress
from gemma_bench.core.kept import kept
from gemma_bench.core.records import Subject, columns
from gemma_bench.measure.capacity import memory
from gemma_bench.measure.likelihood import TokenNats
from gemma_bench.measure.likelihood_torch import of_module
from gemma_bench.models.backend import subject
from gemma_bench.models.loading import load
from gemma_bench.training.corpus import Corpus, Windows, python_sources, python_tokens
from gemma_bench.training.fine_tune import Adapter, Course, Trainee, WholeModel, train
from gemma_bench.training.micro import MICRO, micro_model
from gemma_bench.training.text_vocabulary import TextVocabulary

MEMORISER = MICRO.model_copy(
    update={
        "name": "memoriser",
        "num_hidden_layers": 2,
        "hidden_size": 16,
        "intermediate_size": 48,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
    }
)
"""11,024 parameters: full after a few hundred sequences."""

_BASE_BATCH, _BASE_RATE = 64, 0.02
_STEPS_PER_VISIT = 8
"""Small data are cut into at least so many batches: few steps, not a full model, would leave them half learnt."""

_SPARE = 1.5
"""Tokens read per token needed: rows that occur twice are dropped."""


class Arm(BaseModel):
    """One way to fine-tune; without a rank all weights of a tiny model are, which grows on `base_sequences` first.

    With `text_vocabulary` a loaded model keeps only the tokens that occur in the text, in reading and in training.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    rank: int | None
    targets: tuple[str, ...] = ()
    text_vocabulary: bool = False
    length_tokens: int
    sequences_counts: tuple[int, ...]
    visits: int
    batch_size: int
    rate: float
    base_sequences: int = 0
    reference_sequences: int
    reference_visits: int = 2
    held_out_sequences: int
    readings: int
    seeds: tuple[int, ...]

    def check(self) -> None:
        """Refuse what cannot be measured."""
        if not self.seeds:
            raise BadInputError("seeds must be at least 1, got 0")
        if not self.sequences_counts or min(self.sequences_counts) < 1:
            raise BadInputError(f"data sizes must be at least 1 sequence each, got {list(self.sequences_counts)}")
        for name in ("length_tokens", "visits", "batch_size", "reference_sequences", "held_out_sequences", "readings"):
            if getattr(self, name) < 1:
                raise BadInputError(f"{name} must be at least 1, got {getattr(self, name)}")


Row = dict[str, Any]
"""What was found at one data size and seed, under the names of the record's columns."""


@dataclass(frozen=True)
class Found:
    """An arm's results: what was trained, and a row per data size within seeds."""

    subject: Subject
    trained_parameters: int
    rows: list[Row]

    def columns(self) -> dict[str, tuple[Any, ...]]:
        """Return the rows as a record keeps them, a tuple per column."""
        return columns(self.rows)


@dataclass(frozen=True)
class Material:
    """Sequences of one kind that share none: to grow on, to compare with, to learn, to be asked at the end."""

    base: Int[Tensor, "sequence position"]
    reference: Int[Tensor, "sequence position"]
    members: Int[Tensor, "sequence position"]
    held_out: Int[Tensor, "sequence position"]
    start_token: int


@dataclass(frozen=True)
class Bench:
    """A trainee with its material and what base and reference say of it."""

    trainee: Trainee
    score: TokenNats
    material: Material
    base_held_out_nats: Float[np.ndarray, "sequence position"]
    reference_member_nats: Float[np.ndarray, "sequence position"]
    reference_held_out_nats: Float[np.ndarray, "sequence position"]


def measure(arm: Arm, device: str, progress: Progress, state: Path | None = None) -> Found:
    """Run every seed and data size of an arm; what a `state` folder holds of them is not run again."""
    rows: list[Row] = []
    for seed in arm.seeds:
        trainee, what, corpus, start = _trainee(arm, device, seed)
        material = _material(arm, corpus, start, seed)
        if isinstance(trainee, WholeModel):
            _run(trainee, material.base, start, Course(1, _BASE_BATCH, _BASE_RATE, seed), progress, "growing")
            trainee = WholeModel(trainee.model)
        bench = _bench(arm, trainee, material, seed, progress)
        for sequences in arm.sequences_counts:
            point = partial(_point, arm, bench, sequences, seed, progress)
            rows.append(kept(state, f"{seed}-{sequences}", point))
    return Found(what, sum(parameter.numel() for parameter in trainee.parameters()), rows)


def _trainee(arm: Arm, device: str, seed: int) -> tuple[Trainee, Subject, Corpus, int]:
    if arm.rank is None:
        whole = WholeModel(_tiny(seed).to(device))
        return whole, Subject(model_id=MEMORISER.name, dtype="float32", seed=seed), python_sources(), 2
    backend: Any = load(arm.model, "torch", device, "float32" if device == "cpu" else "bfloat16")
    wanted = max(arm.sequences_counts) + arm.reference_sequences
    tokens = max(wanted, 10 * arm.held_out_sequences) * arm.length_tokens
    corpus = python_tokens(backend.tokenizer, round(_SPARE * tokens))
    if arm.text_vocabulary:
        kept = TextVocabulary.of(corpus)
        kept.cut(backend.model)
        corpus = kept.renamed(corpus)
    adapter = Adapter(backend.model, arm.rank, arm.targets)
    return adapter, subject(backend, seed), corpus, backend.tokenizer.bos_token_id


def _tiny(seed: int) -> Any:
    return micro_model(MEMORISER, seed=seed)


def _material(arm: Arm, corpus: Corpus, start_token: int, seed: int) -> Material:
    """Cut both streams into rows, drop those that occur twice, shuffle them and deal them out."""
    parts = [max(arm.sequences_counts), arm.reference_sequences, arm.base_sequences]
    rows, held_out = (_distinct(Windows(side, arm.length_tokens).rows) for side in (corpus.train, corpus.held_out))
    known = set(map(bytes, rows.numpy()))
    held_out = held_out[[bytes(row) not in known for row in held_out.numpy()]]
    for name, there, wanted in (
        ("training", len(rows), sum(parts)),
        ("held-out", len(held_out), arm.held_out_sequences),
    ):
        if there < wanted:
            raise BadInputError(
                f"Python's own sources have {there:,} {name} rows of {arm.length_tokens} tokens, "
                f"{wanted:,} were asked for"
            )
    shuffle = torch.Generator().manual_seed(seed)
    rows, held_out = (side[torch.randperm(len(side), generator=shuffle)] for side in (rows, held_out))
    members, reference, base = rows[: sum(parts)].split(parts)
    return Material(base, reference, members, held_out[: arm.held_out_sequences], start_token)


def _distinct(rows: Int[Tensor, "sequence position"]) -> Int[Tensor, "distinct position"]:
    _, first = np.unique(rows.numpy(), axis=0, return_index=True)
    return rows[torch.from_numpy(np.sort(first))]


def _bench(arm: Arm, trainee: Trainee, material: Material, seed: int, progress: Progress) -> Bench:
    """Read held-out sequences before any fine-tune, then train the reference and let it read everything."""
    score = of_module(trainee.model, material.start_token)
    trainee.restart(seed)
    base = score(material.held_out.numpy())
    course = Course(arm.reference_visits, arm.batch_size, arm.rate, seed)
    _run(trainee, material.reference, material.start_token, course, progress, "training the reference")
    return Bench(trainee, score, material, base, score(material.members.numpy()), score(material.held_out.numpy()))


def _point(arm: Arm, bench: Bench, sequences: int, seed: int, progress: Progress) -> Row:
    """Fine-tune from the base on so many sequences and read what was learnt, on the way and at the end."""
    bench.trainee.restart(seed)
    rows, start = bench.material.members[:sequences], bench.material.start_token
    batch_size = min(arm.batch_size, max(1, sequences // _STEPS_PER_VISIT))
    course = Course(arm.visits, batch_size, arm.rate, seed)
    readings: list[tuple[float, float, float]] = []
    for step, steps in train(bench.trainee, rows, start, course):
        progress(f"fine-tuning {arm.model} on {sequences} sequences, seed {seed}", step, steps)
        if step * arm.readings // steps > (step - 1) * arm.readings // steps:
            readings.append((step * arm.visits / steps, *_learnt(bench, sequences)))
    visits, by_heart, in_general = zip(*readings, strict=True)
    held_out = bench.material.held_out.numpy()
    ours = memory(bench.score, lambda rows: bench.reference_member_nats[: len(rows)], [rows.numpy()])
    control = memory(bench.score, lambda _: bench.reference_held_out_nats, [held_out])
    return {
        "seeds": seed,
        "sequences_counts": sequences,
        "data_bits": ours.data_bits,
        "memorised_bits": ours.memorised_bits,
        "memorised_bits_per_sequence": ours.memorised_bits / sequences,
        "generalised_bits_per_sequence": in_general[-1],
        "control_bits_per_sequence": control.memorised_bits / len(held_out),
        "held_out_bits_per_token": _bits_per_token(bench.score(held_out)),
        "base_held_out_bits_per_token": _bits_per_token(bench.base_held_out_nats),
        "reference_held_out_bits_per_token": _bits_per_token(bench.reference_held_out_nats),
        "readings_visits": visits,
        "readings_memorised_bits_per_sequence": by_heart,
        "readings_generalised_bits_per_sequence": in_general,
    }


def _learnt(bench: Bench, sequences: int) -> tuple[float, float]:
    """Return bits per sequence learnt by heart, and bits per held-out sequence saved over the base."""
    rows, held_out = bench.material.members[:sequences].numpy(), bench.material.held_out.numpy()
    by_heart = memory(bench.score, lambda rows: bench.reference_member_nats[: len(rows)], [rows])
    in_general = memory(bench.score, lambda _: bench.base_held_out_nats, [held_out])
    return by_heart.memorised_bits / sequences, in_general.saved_bits / len(held_out)


def _bits_per_token(nats: Float[np.ndarray, "sequence position"]) -> float:
    return float(nats.mean()) / log(2)


def _run(
    trainee: Trainee, rows: Int[Tensor, "sequence position"], start: int, course: Course, progress: Progress, what: str
) -> None:
    for step, steps in train(trainee, rows, start, course):
        progress(what, step, steps)
