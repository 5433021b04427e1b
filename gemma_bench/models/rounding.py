"""Rounding weights to few bits: affine groups as MLX stores them, w ≈ scale·q + bias, with the grid laid well.

Legend: rows × columns is one weight matrix; every `group` neighbouring columns of a row share a scale and a bias.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gemma_bench.core.errors import BadInputError

_CLIPPED_LEVELS = 4
"""The finest grid tried has this many levels more than there are codes: as many outermost ones are cut off."""

_FEW_STEPS = 15
"""Finer codes than those of 4 bits gain nothing from other grids, only from least squares."""

_REFINEMENTS = 2

_ROWS = 16_384
"""Matrices are rounded in slices of rows, so that the vocabulary's costs no more room than a layer's."""


@dataclass(frozen=True)
class Rounded:
    """One rounded matrix: codes 0 … 2^bits − 1, and each group's bfloat16 scale and bias."""

    codes: Int[Tensor, "row column"]
    scales: Float[Tensor, "row group"]
    biases: Float[Tensor, "row group"]
    bits: int

    @property
    def group_size(self) -> int:
        """Return how many neighbours share a scale."""
        return self.codes.shape[1] // self.scales.shape[1]

    def values(self) -> Float[Tensor, "row column"]:
        """Return scale·q + bias in float32."""
        codes = self.codes.float().unflatten(1, (-1, self.group_size))
        values: Tensor = codes * self.scales.float()[..., None] + self.biases.float()[..., None]
        return values.flatten(1)


def round_min_max(weights: Float[Tensor, "row column"], bits: int, group_size: int) -> Rounded:
    """Lay the grid from each group's smallest to its largest weight: the plain way, and the control."""
    return _rounded(weights, bits, group_size, fitted=False)


def round_fitted(weights: Float[Tensor, "row column"], bits: int, group_size: int) -> Rounded:
    """Lay each group's grid where the squared error is least among those tried; never worse than `round_min_max`.

    Tried are grids of n steps over the group's range, n from 1 up to a few more than there are codes (of which
    neighbouring ones are used), the best then moved by least squares. Weights that lie on a grid that bfloat16 can
    write come back exactly.
    """
    return _rounded(weights, bits, group_size, fitted=True)


def _rounded(weights: Tensor, bits: int, group_size: int, *, fitted: bool) -> Rounded:
    if weights.shape[1] % group_size:
        raise BadInputError(f"group size must divide the {weights.shape[1]} columns of a matrix, got {group_size}")
    parts = [
        _round_groups(rows.float().unflatten(1, (-1, group_size)), 2**bits - 1, fitted=fitted)
        for rows in weights.split(_ROWS)
    ]
    codes, scales, biases = (torch.cat(column) for column in zip(*parts, strict=True))
    return Rounded(codes.flatten(1), scales, biases, bits)


Grid = tuple[Float[Tensor, "row group"], Float[Tensor, "row group"]]


def _round_groups(
    groups: Float[Tensor, "row group member"], top: int, *, fitted: bool
) -> tuple[Int[Tensor, "row group member"], Float[Tensor, "row group"], Float[Tensor, "row group"]]:
    low, high = groups.amin(-1), groups.amax(-1)
    best = _stored((high - low) / top, low)
    if fitted:
        error = _squared_error(groups, best, top)
        for grid in _grids(low, high, top):
            best, error = _better(groups, (best, error), _stored(*grid), top)
        for _ in range(_REFINEMENTS):
            best, error = _better(groups, (best, error), _least_squares(groups, best, top), top)
    codes = _codes(groups, best, top).to(torch.uint8)
    return codes, best[0].bfloat16(), best[1].bfloat16()


def _better(groups: Tensor, best: tuple[Grid, Tensor], grid: Grid, top: int) -> tuple[Grid, Tensor]:
    """Take a grid where its error is smaller than that of the best one so far."""
    error = _squared_error(groups, grid, top)
    smaller = error < best[1]
    chosen = tuple(torch.where(smaller, new, old) for new, old in zip(grid, best[0], strict=True))
    return (chosen[0], chosen[1]), torch.where(smaller, error, best[1])


def _grids(low: Tensor, high: Tensor, top: int) -> Iterator[Grid]:
    """Yield grids of n steps over each group's range; of finer ones than there are codes, every run of neighbours."""
    if top > _FEW_STEPS:
        return
    for steps in range(1, top):
        yield (high - low) / steps, low
    for steps in range(top + 1, top + 1 + _CLIPPED_LEVELS):
        scale = (high - low) / steps
        for cut in range(steps - top + 1):
            yield scale, low + cut * scale


def _least_squares(groups: Tensor, start: Grid, top: int) -> Grid:
    """Return the scale and bias that fit the weights best with the codes that they have on a first grid."""
    codes = _codes(groups, start, top)
    offsets = codes - codes.mean(-1, keepdim=True)
    spread = offsets.square().sum(-1)
    slope = torch.where(spread > 0, (offsets * groups).sum(-1) / spread.clamp_min(1e-12), start[0])
    return _stored(slope, groups.mean(-1) - slope * codes.mean(-1))


def _stored(scale: Tensor, bias: Tensor) -> Grid:
    """Return a grid as it can be kept, in bfloat16; a group of equal weights has a scale of 1."""
    kept = scale.bfloat16().float()
    return torch.where(kept == 0, 1.0, kept), bias.bfloat16().float()


def _codes(groups: Tensor, grid: Grid, top: int) -> Tensor:
    return ((groups - grid[1][..., None]) / grid[0][..., None]).round_().clamp_(0, top)


def _squared_error(groups: Tensor, grid: Grid, top: int) -> Tensor:
    return (groups - _codes(groups, grid, top) * grid[0][..., None] - grid[1][..., None]).square().sum(-1)
