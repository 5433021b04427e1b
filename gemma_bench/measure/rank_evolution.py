"""How the rank of a model's change grows while it trains, matrix by matrix, and where its directions go.

The change is read from the effective weights: what the adapter adds now on top of what was merged, less the start. That
is the same for every method, and exact in float32 because the rounding of the stored weights counts as noise.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from gemma_bench.measure.spectrum import (
    Factors,
    Spectrum,
    directions,
    overlap,
    random_sum,
    spectrum_of_factors,
    spectrum_of_matrix,
)
from gemma_bench.training.adapters import PROJECTIONS, factors, layers
from gemma_bench.training.split_weights import master

Change = Factors | tuple[Float[Tensor, "out in"], Float[Tensor, "out in"] | None]
"""A change as factors, or as a matrix with the stored weight that it was read back from, if it was."""

LEADING_COUNT = 4
"""Directions whose way is followed: as many as a small adapter has."""


def effective_weights(model: nn.Module) -> dict[str, Float[Tensor, "out in"]]:
    """Return what each projection multiplies by, in float64, its adapter included, by its name in the plain model."""
    adapted = layers(model)
    if adapted:
        return {name: _with_adapter(layer) for name, layer in adapted.items()}
    return {
        name: master(part).double()
        for name, part in model.named_modules()
        if isinstance(part, nn.Linear) and name.rpartition(".")[2] in PROJECTIONS
    }


def _with_adapter(layer: LoraLayer) -> Float[Tensor, "out in"]:
    b, a = factors(layer)
    return torch.addmm(master(layer.get_base_layer()).double(), b.double(), a.double())


@dataclass(frozen=True)
class Reading:
    """The ranks of one matrix's change at one step."""

    rank: int
    effective_rank: float
    stable_rank: float
    norm: float

    @classmethod
    def of(cls, found: Spectrum) -> "Reading":
        """Read a spectrum."""
        return cls(found.rank, found.effective_rank, found.stable_rank, found.norm)


class Evolution:
    """The ranks of every matrix's change since the start, reading by reading, and its leading directions."""

    def __init__(self, start: Mapping[str, Float[Tensor, "out in"]]) -> None:
        """Take the effective weights before training."""
        self.start, self._last = start, start
        self.steps: list[int] = []
        self.readings: dict[str, list[Reading]] = {name: [] for name in start}
        self.spectra: dict[str, Spectrum] = {}
        self.moved: dict[str, list[float]] = {name: [] for name in start}
        self._leading: list[dict[str, Float[Tensor, "out count"]]] = []

    def read(self, step: int, model: nn.Module) -> None:
        """Read every matrix of a model, and how far it moved since the last reading."""
        now = effective_weights(model)
        for name, last in self._last.items():
            self.moved[name].append(float((now[name] - last).norm()))
        self._last = now
        self.read_changes(step, {name: (now[name] - start, start.float()) for name, start in self.start.items()})

    def read_changes(self, step: int, changes: Mapping[str, Change]) -> None:
        """Read the changes of all matrices."""
        self.steps.append(step)
        self._leading.append({})
        for name, change in changes.items():
            found = spectrum_of_factors(change) if isinstance(change, Factors) else spectrum_of_matrix(*change)
            self.spectra[name] = found
            self.readings[name].append(Reading.of(found))
            if found.rank:
                matrix = change if isinstance(change, Factors) else change[0]
                self._leading[-1][name] = directions(matrix, min(LEADING_COUNT, found.rank))

    def means(self, what: str) -> tuple[float, ...]:
        """Return the mean of a rank over all matrices, reading by reading."""
        columns = zip(*self.readings.values(), strict=True)
        return tuple(sum(getattr(reading, what) for reading in column) / len(column) for column in columns)

    def of_matrices(self, what: str) -> dict[str, tuple[float, ...]]:
        """Return a rank of every matrix, reading by reading."""
        return {name: tuple(getattr(reading, what) for reading in readings) for name, readings in self.readings.items()}

    def trajectory(self) -> tuple[tuple[float, ...], ...]:
        """Return how far the leading directions at each reading are those at each other one: mean overlap, 0 to 1."""
        return tuple(tuple(_mean_overlap(now, then) for then in self._leading) for now in self._leading)

    def null_effective_rank(self, terms: int) -> float:
        """Return the mean effective rank of the null model: what random directions of the same norms would have had.

        Between two readings each matrix takes `terms` rank-1 changes of equal norm, together as long as the way that it
        went.
        """
        ranks = []
        for seed, (name, lengths) in enumerate(self.moved.items()):
            norms = [length / terms**0.5 for length in lengths for _ in range(terms)]
            shape = self.start[name].shape
            ranks.append(spectrum_of_factors(random_sum(norms, (shape[0], shape[1]), seed=seed)).effective_rank)
        return sum(ranks) / len(ranks)


def _mean_overlap(now: dict[str, Tensor], then: dict[str, Tensor]) -> float:
    found = list(_overlaps(now, then))
    return sum(found) / len(found) if found else 0.0


def _overlaps(now: dict[str, Tensor], then: dict[str, Tensor]) -> Iterator[float]:
    for name in now.keys() & then.keys():
        yield overlap(now[name], then[name])
