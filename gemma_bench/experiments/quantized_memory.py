"""The question: how much of what a model holds survives rounding its weights to 8, 6, 5, 4, 3 or 2 bits.

A tiny Gemma 3 learns random strings by heart, which nothing but its own weights can tell; then all its matrices are
rounded in affine groups, 32/group bits per weight for scale and bias, and what it still holds is read. Norms stay.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from gemma_bench.core.errors import BadInputError, InvalidRunError
from gemma_bench.core.files import Progress, silent
from gemma_bench.core.records import Record, Subject, columns
from gemma_bench.experiments.tiny_strings import Strings, TinyShape
from gemma_bench.measure.capacity import Memory, memory, uniform
from gemma_bench.measure.likelihood import Sequences
from gemma_bench.models.catalog import bits_per_weight
from gemma_bench.models.rounding import Rounded, round_fitted, round_min_max
from gemma_bench.training.stack.arms import Arm, Training, steps_for
from gemma_bench.training.stack.blocks import unpack
from gemma_bench.training.stack.train import Trained, train

VERSION = 1
MINUTES = {"fixture": 0.5, "study": 8}

ROUNDINGS: Mapping[str, Callable[[Tensor, int, int], Rounded]] = {"min max": round_min_max, "fitted": round_fitted}


class Config(TinyShape):
    """One shape, given `fill_ratios` bits of data per parameter, then rounded to each of `bits`."""

    width: int
    hidden: int
    fill_ratios: tuple[float, ...]
    visits: int
    batch_size: int = 32
    rate: float
    seeds: tuple[int, ...]
    bits: tuple[int, ...] = (8, 6, 5, 4, 3, 2)
    group_size: int = 64

    def sequences(self, fill: float) -> int:
        """Return how many sequences have `fill` bits per parameter."""
        return self.shape.sequences(fill)

    def check(self) -> None:
        """Refuse what cannot be measured."""
        for name in ("seeds", "fill_ratios", "bits"):
            if not getattr(self, name):
                raise BadInputError(f"{name} must be at least 1, got 0")
        if self.sequences(min(self.fill_ratios)) < 1:
            raise BadInputError(f"data must be at least 1 sequence, got {min(self.fill_ratios)} bits per parameter")
        if not all(1 <= bits <= 8 for bits in self.bits):  # noqa: PLR2004 - a code is a byte
            raise BadInputError(f"bits must be between 1 and 8, got {list(self.bits)}")
        odd = [name for name, size in self.shape.tensors.items() if len(size) > 1 and np.prod(size) % self.group_size]
        if odd:
            raise BadInputError(f"group size must divide every matrix, got {self.group_size} for {odd[0]}")


FIXTURE = Config(width=16, hidden=40, fill_ratios=(3.6,), visits=400, rate=0.03, seeds=(0, 1, 2))
"""Models of 4 thousand parameters, given more than they can hold: seconds on one core."""

STUDY = Config(width=32, hidden=64, fill_ratios=(0.9, 1.8, 3.6, 7.2), visits=800, rate=0.02, seeds=(0, 1, 2))
"""12 thousand parameters, from a third full to three times too much."""


class QuantizedRecord(Record):
    """Columns run over bits within roundings within fill ratios within seeds; `samples` are the kept ratios.

    `kept_ratio` is memorised bits after rounding over before, with no sequence counted below zero on either side;
    `signed_kept_ratio` lets what the rounded model gets wrong count against it.
    """

    parameters_count: int
    group_size: int
    visits_count: int
    seeds: tuple[int, ...]
    fill_bits_per_parameter: tuple[float, ...]
    roundings: tuple[str, ...]
    bits: tuple[int, ...]
    stored_bits_per_weight: tuple[float, ...]
    whole_bits_per_parameter: tuple[float, ...]
    memorised_bits: tuple[float, ...]
    kept_ratio: tuple[float, ...]
    signed_kept_ratio: tuple[float, ...]

    def kept(self, bits: int, rounding: str, fill: float) -> list[float]:
        """Return the kept ratios of one way to round, one for each seed."""
        rows = zip(self.kept_ratio, self.bits, self.roundings, self.fill_bits_per_parameter, strict=True)
        return [kept for kept, *where in rows if where == [bits, rounding, fill]]


def run(
    config: Config, *, scale: str = "fixture", progress: Progress = silent, state: Path | None = None
) -> tuple[QuantizedRecord, ...]:
    """Fill models, round them, read what is left, and return one record."""
    config.check()
    cases = [(seed, fill) for seed in config.seeds for fill in config.fill_ratios]
    data = [_strings(config, seed, fill) for seed, fill in cases]
    arms = [
        Arm(seed, config.rate, steps_for(config.visits, len(held), config.batch_size))
        for (seed, _), held in zip(cases, data, strict=True)
    ]
    trained = train(config.shape, arms, data, Training(batch=config.batch_size), progress=progress, state=state)
    rows: list[dict[str, Any]] = []
    for (seed, fill), model, held in zip(cases, trained, data, strict=True):
        if model.diverged:
            raise InvalidRunError("diverged", f"seed {seed}, {fill} bits per parameter: {model.diverged}")
        rows += ({"seeds": seed, "fill_bits_per_parameter": fill, **row} for row in _rows(config, model, held))
    return (_record(config, rows, scale),)


def _strings(config: Config, seed: int, fill: float) -> Sequences:
    """Draw uniform strings; their first symbol is given."""
    count = config.sequences(fill)
    return Strings(config.symbols, config.length_tokens).draw(count, seed, count)


def _rows(config: Config, model: Trained, held: Sequences) -> Iterator[dict[str, Any]]:
    """Yield what is left after every way to round."""
    before = _read(config, model, held)
    if before.saved_bits <= 0:
        raise InvalidRunError("too short", f"seed {model.arm.seed} has memorised nothing that rounding could destroy")
    for name, rounding in ROUNDINGS.items():
        for bits in config.bits:
            left = _read(config, replace(model, weights=_rounded(config, model.weights, rounding, bits)), held)
            yield {
                "roundings": name,
                "bits": bits,
                "stored_bits_per_weight": bits_per_weight(bits, config.group_size),
                "whole_bits_per_parameter": before.bits_per_parameter(config.shape.parameter_count),
                "memorised_bits": left.memorised_bits,
                "kept_ratio": left.memorised_bits / before.memorised_bits,
                "signed_kept_ratio": left.saved_bits / before.saved_bits,
            }


def _read(config: Config, model: Trained, held: Sequences) -> Memory:
    return memory(model.scorer(config.shape), uniform(config.symbols), [held])


def _rounded(config: Config, weights: Tensor, rounding: Callable[[Tensor, int, int], Rounded], bits: int) -> Tensor:
    """Return a model's weights with every matrix rounded; where rows are shorter than a group they share one."""
    row = weights.clone()
    for matrix in unpack(row[None], config.shape).values():
        if matrix.ndim > 2:  # noqa: PLR2004 - model, row, column
            groups = rounding(matrix.reshape(-1, config.group_size), bits, config.group_size)
            matrix.copy_(groups.values().view_as(matrix))
    return row


def _record(config: Config, rows: list[dict[str, Any]], scale: str) -> QuantizedRecord:
    table = columns(rows)
    return QuantizedRecord.measured(
        Subject(model_id=config.model_id, dtype="float32", seed=config.seeds[0]),
        experiment="quantized_memory",
        experiment_version=VERSION,
        config_json=config.model_dump_json(),
        scale=scale,
        samples=table["kept_ratio"],
        parameters_count=config.shape.parameter_count,
        group_size=config.group_size,
        visits_count=config.visits,
        **table,
    )
