"""How the rank of a model's change grows while it trains, matrix by matrix, and where its directions go.

The change is read from the effective weights: what the adapter adds now on top of what was merged, less the start. That
is the same for every method, and exact in float32 because the rounding of the stored weights counts as noise.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from gemma_bench.core.errors import InvalidRunError
from gemma_bench.measure.spectrum import (
    Factors,
    Spectrum,
    directions,
    in_float64,
    overlap,
    random_sum,
    spectrum_of_factors,
    spectrum_of_matrix,
)
from gemma_bench.training.adapters import PROJECTIONS, factors, layers
from gemma_bench.training.split_weights import master

Change = Factors | tuple[Float[Tensor, "out in"], Float[Tensor, "out in"] | None]
"""A change as factors, or as a matrix with the stored weight that it was read back from, if it was."""

Directions = Float[Tensor, "out count"]

LEADING_COUNT = 4
"""Directions whose way is followed: as many as a small adapter has."""


Matrix = nn.Linear | LoraLayer


def projections(model: nn.Module) -> Iterator[tuple[str, Matrix]]:
    """Yield a model's adapted layers, or its projections where it has none, by their names in the plain model."""
    adapted = layers(model)
    yield from adapted.items()
    for name, part in () if adapted else model.named_modules():
        if isinstance(part, nn.Linear) and name.rpartition(".")[2] in PROJECTIONS:
            yield name, part


def effective_weight(part: Matrix) -> Float[Tensor, "out in"]:
    """Return what a projection multiplies by, in float64, its adapter included."""
    if not isinstance(part, LoraLayer):
        return in_float64(master(part))
    b, a = factors(part)
    return torch.addmm(in_float64(master(part.get_base_layer())), in_float64(b), in_float64(a))


def effective_weights(model: nn.Module) -> dict[str, Float[Tensor, "out in"]]:
    """Return the effective weight of every projection."""
    return {name: effective_weight(part) for name, part in projections(model)}


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


class RankReadings:
    """The ranks of every matrix's change, reading by reading, and the directions that led each time."""

    def __init__(self, names: Iterable[str]) -> None:
        """Take the names of the matrices."""
        self.steps: list[int] = []
        self.readings: dict[str, list[Reading]] = {name: [] for name in names}
        self.spectra: dict[str, Spectrum] = {}
        self._leading: list[dict[str, Directions]] = []

    def add(self, step: int, found: Mapping[str, tuple[Spectrum, Directions]]) -> None:
        """Take what was found at a step for all matrices: spectra and leading directions."""
        self.steps.append(step)
        self._leading.append({name: found[name][1] for name in self.readings if found[name][1].shape[1]})
        for name, readings in self.readings.items():
            self.spectra[name] = found[name][0]
            readings.append(Reading.of(found[name][0]))

    def read_changes(self, step: int, changes: Mapping[str, Change]) -> None:
        """Read the changes of all matrices."""
        self.add(step, {name: read_change(change) for name, change in changes.items()})

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


class Evolution(RankReadings):
    """Readings of a model of which the start stays in memory, and the way that each matrix goes between them."""

    def __init__(self, start: Mapping[str, Float[Tensor, "out in"]]) -> None:
        """Take the effective weights before training."""
        super().__init__(start)
        self.start, self._last = start, start
        self.moved: dict[str, list[float]] = {name: [] for name in start}

    def read(self, step: int, model: nn.Module) -> None:
        """Read every matrix of a model, and how far it moved since the last reading."""
        now = effective_weights(model)
        for name, last in self._last.items():
            self.moved[name].append(float((now[name] - last).norm()))
        self._last = now
        self.read_changes(step, {name: (now[name] - start, start.float()) for name, start in self.start.items()})

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


def read_change(change: Change) -> tuple[Spectrum, Directions]:
    """Return a change's spectrum and its leading directions, none where it is no change at all.

    Raises `InvalidRunError` for a change that is no number.
    """
    for part in (change.b, change.a) if isinstance(change, Factors) else (change[0],):
        if not bool(torch.isfinite(part).all()):
            raise InvalidRunError("diverged", "the change of a weight is no number any more")
    matrix = change if isinstance(change, Factors) else change[0]
    found = spectrum_of_factors(change) if isinstance(change, Factors) else spectrum_of_matrix(*change)
    count = min(LEADING_COUNT, found.rank)
    return found, directions(matrix, count) if count else torch.empty(matrix.shape[0], 0)


def _mean_overlap(now: dict[str, Directions], then: dict[str, Directions]) -> float:
    found = list(_overlaps(now, then))
    return sum(found) / len(found) if found else 0.0


def _overlaps(now: dict[str, Directions], then: dict[str, Directions]) -> Iterator[float]:
    for name, here in now.items():
        if name in then:
            yield overlap(here, then[name])
