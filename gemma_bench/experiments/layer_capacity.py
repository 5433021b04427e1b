"""The question: does a block's share of what a model holds depend on how deep it lies, and how does a model fill up.

Two readings of tiny Gemma 3s that learn random strings by heart. Marginal capacity: bits that a model with one block
frozen at its random start holds less than the whole one, per parameter of that block; a marginal is no share, and they
need not add up. Noise sensitivity: bits lost, per parameter, when one part's weights are shaken by a twentieth of their
spread; it rises as a model fills. Early noise passes through more layers: compare within a part, not between parts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from math import log2, prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import Field

from gemma_bench.core.errors import BadInputError, InvalidRunError
from gemma_bench.core.files import Progress, silent
from gemma_bench.core.records import Record, Subject, columns
from gemma_bench.experiments.sharing import share_out
from gemma_bench.experiments.tiny_strings import TinyShape
from gemma_bench.measure.capacity import memory, uniform
from gemma_bench.measure.likelihood import Sequences
from gemma_bench.training.stack.arms import Arm, Training, steps_for
from gemma_bench.training.stack.blocks import unpack
from gemma_bench.training.stack.shape import Shape
from gemma_bench.training.stack.train import Trained, train

VERSION = 1
MINUTES = {"fixture": 0.3, "study": 32}

_FEWEST_BLOCKS = 2


class Config(TinyShape):
    """One shape, given `fill_ratios` bits of data per parameter; at the `marginal_fill` each block is frozen once.

    How many `workers` share the models out changes nothing that is found, and no record holds it.
    """

    layers: int = 3
    marginal_fill: float = 4.0
    fill_ratios: tuple[float, ...]
    visits: int
    batch_size: int = 32
    rate: float = 0.02
    seeds: tuple[int, ...]
    noise_ratio: float = 0.05
    noise_draws: int = 4
    workers: int = Field(1, exclude=True)

    def sequences(self, fill: float) -> int:
        """Return how many sequences have `fill` bits per parameter."""
        return self.shape.sequences(fill)

    def check(self) -> None:
        """Refuse what cannot be measured."""
        if not self.seeds:
            raise BadInputError("seeds must be at least 1, got 0")
        if self.layers < _FEWEST_BLOCKS:
            raise BadInputError(f"layers must be at least {_FEWEST_BLOCKS} to be compared, got {self.layers}")
        if self.sequences(min((*self.fill_ratios, self.marginal_fill))) < 1:
            raise BadInputError("data must be at least 1 sequence at every fill ratio")
        if self.noise_draws < 1:
            raise BadInputError(f"noise draws must be at least 1, got {self.noise_draws}")
        if self.workers < 1:
            raise BadInputError(f"workers must be at least 1, got {self.workers}")


FIXTURE = Config(layers=2, fill_ratios=(1.0,), visits=60, seeds=(0,), noise_draws=2)
"""Seconds on one core; far from full."""

STUDY = Config(fill_ratios=(0.5, 1.0, 2.0, 8.0), visits=400, seeds=tuple(range(16)), workers=2)
"""10 thousand parameters in three blocks, sixteen seeds: with four the spread over depth was undecided at 10 %."""


class LayerRecord(Record):
    """Marginals run over blocks within seeds, and are the `samples`; the map runs over parts within fill ratios.

    Of the map, `lost_bits_per_parameter` are means over seeds and draws.
    """

    layers_count: int
    parameters_count: int
    block_parameters_count: int
    sequences_count: int
    visits_count: int
    data_bits: float
    seeds: tuple[int, ...]
    whole_bits: tuple[float, ...]
    frozen_bits: tuple[float, ...]
    marginal_bits_per_parameter: tuple[float, ...]
    noise_ratio: float
    noise_fill_bits_per_parameter: tuple[float, ...]
    noise_parts: tuple[str, ...]
    noise_lost_bits_per_parameter: tuple[float, ...]

    def marginals(self) -> list[list[float]]:
        """Return marginal capacities, a row per seed and a column per block."""
        rows: list[list[float]] = np.reshape(self.marginal_bits_per_parameter, (-1, self.layers_count)).tolist()
        return rows


class Case(NamedTuple):
    """One model: its seed, its data's bits per parameter, and what is frozen of it."""

    seed: int
    fill: float
    frozen: tuple[str, ...]


class Found(NamedTuple):
    """The bits that a model holds, and, of a whole one, those that noise in each of its parts costs, draw by draw."""

    bits: float
    lost_bits: dict[str, list[float]]


def run(
    config: Config, *, scale: str = "fixture", progress: Progress = silent, state: Path | None = None
) -> tuple[LayerRecord, ...]:
    """Train whole and partly frozen models, and whole ones at every fill; shake the whole ones; return one record."""
    config.check()
    blocks = [(f"{block}.",) for block in range(config.layers)]
    cases = [Case(seed, config.marginal_fill, frozen) for seed in config.seeds for frozen in [(), *blocks]]
    cases += [Case(seed, fill, ()) for seed in config.seeds for fill in config.fill_ratios]
    costs = [config.sequences(case.fill) for case in cases]
    found = share_out(partial(_measure, config=config, state=state), cases, costs, config.workers, progress)
    marginal = len(config.seeds) * (config.layers + 1)
    held_bits = [one.bits for one in found[:marginal]]
    return (_record(config, np.reshape(held_bits, (-1, config.layers + 1)), list(_map(config, cases, found)), scale),)


def _measure(
    cases: Sequence[Case], worker: int, progress: Progress, *, config: Config, state: Path | None
) -> list[Found]:
    """Train some of the models as one stack and read them."""
    data = [_strings(config, case.seed, case.fill) for case in cases]
    arms = [
        Arm(case.seed, config.rate, steps_for(config.visits, len(held), config.batch_size), case.frozen)
        for case, held in zip(cases, data, strict=True)
    ]
    folder = None if state is None else state / f"worker-{worker}"
    trained = train(config.shape, arms, data, Training(batch=config.batch_size), progress=progress, state=folder)
    for case, model in zip(cases, trained, strict=True):
        if model.diverged:
            where = f"seed {case.seed}, {case.fill} bits per parameter, {case.frozen}"
            raise InvalidRunError("diverged", f"{where}: {model.diverged}")
    return [_read(config, *each) for each in zip(cases, trained, data, strict=True)]


def _read(config: Config, case: Case, model: Trained, held: Sequences) -> Found:
    whole_bits, lost = _bits(config, model, held), dict[str, list[float]]()
    for part, names in ({} if case.frozen else parts(config.shape)).items():
        shaken = (_shaken(config, model, names, draw) for draw in range(config.noise_draws))
        lost[part] = [whole_bits - _bits(config, each, held) for each in shaken]
    return Found(whole_bits, lost)


def _strings(config: Config, seed: int, fill: float) -> Sequences:
    """Draw uniform strings; their first symbol is given."""
    size = config.sequences(fill), config.length_tokens + 1
    return np.random.default_rng((seed, size[0])).integers(0, config.symbols, size)


def _bits(config: Config, model: Trained, held: Sequences) -> float:
    return memory(model.scorer(config.shape), uniform(config.symbols), [held]).saved_bits


def parts(shape: Shape) -> dict[str, list[str]]:
    """Return the matrices of a model's parts: embedding, and attention and feed-forward of every block."""
    found = {"embedding": ["embedding"]}
    for block in range(shape.layers):
        found[f"attention {block}"] = [f"{block}.qkv", f"{block}.out"]
        found[f"feed-forward {block}"] = [f"{block}.gate_up", f"{block}.down"]
    return found


def _map(config: Config, cases: Sequence[Case], found: Sequence[Found]) -> Iterator[dict[str, Any]]:
    """Yield, per fill ratio and part, what a twentieth of noise costs, over seeds and draws."""
    whole = [(case.fill, one.lost_bits) for case, one in zip(cases, found, strict=True) if not case.frozen]
    for fill in sorted({fill for fill, _ in whole}):
        for part, names in parts(config.shape).items():
            lost = [bits for there, of in whole if there == fill for bits in of[part]]
            count = sum(prod(config.shape.tensors[name]) for name in names)
            yield {"fill_bits_per_parameter": fill, "parts": part, "lost_bits_per_parameter": np.mean(lost) / count}


def _shaken(config: Config, model: Trained, names: list[str], draw: int) -> Trained:
    """Add noise to some matrices, each by its own spread."""
    row, generator = model.weights.clone(), torch.Generator().manual_seed(draw)
    tensors = unpack(row[None], config.shape)
    for name in names:
        noise = torch.randn(tensors[name].shape, generator=generator)
        tensors[name].add_(noise * tensors[name].std() * config.noise_ratio)
    return replace(model, weights=row)


def _record(config: Config, held_bits: np.ndarray, noise: list[dict[str, Any]], scale: str) -> LayerRecord:
    """Take bits, a row per seed: first the whole model's, then those with each block frozen."""
    shape, count = config.shape, config.sequences(config.marginal_fill)
    block = sum(prod(size) for name, size in shape.tensors.items() if name.startswith("0."))
    marginals = (held_bits[:, :1] - held_bits[:, 1:]) / block
    return LayerRecord.measured(
        Subject(model_id=config.model_id, dtype="float32", seed=config.seeds[0]),
        experiment="layer_capacity",
        experiment_version=VERSION,
        config_json=config.model_dump_json(),
        scale=scale,
        samples=tuple(marginals.ravel().tolist()),
        layers_count=config.layers,
        parameters_count=shape.parameter_count,
        block_parameters_count=block,
        sequences_count=count,
        visits_count=config.visits,
        data_bits=count * config.length_tokens * log2(config.symbols),
        seeds=config.seeds,
        whole_bits=tuple(held_bits[:, 0].tolist()),
        frozen_bits=tuple(held_bits[:, 1:].ravel().tolist()),
        marginal_bits_per_parameter=tuple(marginals.ravel().tolist()),
        noise_ratio=config.noise_ratio,
        **columns(noise, "noise_"),
    )
