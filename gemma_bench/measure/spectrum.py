"""How many directions a weight's change has: singular values, three ranks, and whether its directions stay.

A change is either `Factors` s·B·A, whose spectrum costs two thin QR decompositions, or the difference of two weights. A
large matrix of few directions is first found out as factors by a random sketch, checked against the matrix itself; any
other costs its smaller Gram matrix. All is done in float64.
Legend: out × in is one weight matrix, rank the width of B and the height of A.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from gemma_bench.core.errors import BadInputError

_EPSILON = torch.finfo(torch.float64).eps
_LEAST_SKETCHED_SIDE = 512
"""Smaller matrices have their Gram matrix at once."""

_SIDES_PER_DIRECTION = 16
"""A sketch finds changes of up to one direction for so many of the smaller side."""

_GRAM_BLOCKS = 8


@dataclass(frozen=True)
class Factors:
    """A change of a weight as s·B·A."""

    b: Float[Tensor, "out rank"]
    a: Float[Tensor, "rank in"]
    scale: float = 1.0

    def __post_init__(self) -> None:
        """Refuse factors that do not fit together."""
        if self.b.ndim != 2 or self.a.ndim != 2 or self.b.shape[1] != self.a.shape[0]:  # noqa: PLR2004 - matrices
            raise BadInputError(
                f"B must be out × rank and A rank × in, got {tuple(self.b.shape)}, {tuple(self.a.shape)}"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Return the shape of the weight: out, in."""
        return self.b.shape[0], self.a.shape[1]


@dataclass(frozen=True)
class Spectrum:
    """Singular values in float64, largest first; what is at most `noise` cannot be told from zero."""

    values: Float[Tensor, " least"]
    noise: float

    @property
    def rank(self) -> int:
        """Count the singular values above the noise."""
        return int((self.values > self.noise).sum())

    @property
    def effective_rank(self) -> float:
        """Return exp(−Σ p ln p) with p = σ/Σσ (Roy and Vetterli, EUSIPCO 2007) of what is above the noise, else 0.

        Rounding has full rank: its many small values would count as directions.
        """
        shares = self.values[self.values > self.noise]
        shares = shares / shares.sum()
        return float(torch.exp(-(shares * shares.log()).sum())) if len(shares) else 0.0

    @property
    def stable_rank(self) -> float:
        """Return Σσ²/σ₁²: the squared Frobenius norm over the squared spectral norm; 0 for no change at all."""
        return float((self.values / self.values[0]).square().sum()) if self.values[0] > 0 else 0.0

    @property
    def norm(self) -> float:
        """Return the Frobenius norm."""
        return float(self.values.norm())


def spectrum_of_factors(change: Factors) -> Spectrum:
    """Return the spectrum of s·B·A from Q_B (s·R_B·R_Aᵀ) Q_Aᵀ, without ever forming the product."""
    (_, r_b), (_, r_a) = _qr(change.b, "r"), _qr(change.a.mT, "r")
    values = torch.linalg.svdvals(change.scale * r_b @ r_a.mT)
    return Spectrum(values, noise=float(values[0]) * max(change.shape) * _EPSILON)


def spectrum_of_matrix(change: Float[Tensor, "out in"], stored: Float[Tensor, "out in"] | None = None) -> Spectrum:
    """Return the spectrum of a matrix, from a sketch where it has few directions, else from its smaller Gram matrix.

    `stored` is the weight that the change was read back from: its rounding is in the change and has full rank, so what
    it could have made counts as noise. Without it the change's own precision does. The Gram matrix itself hides what is
    below about 1e-7 of the largest singular value; what a sketch leaves out is less than the noise, and its norm is
    shared evenly by the values that are not known.
    """
    wide, rounding = in_float64(change), rounding_noise(change if stored is None else stored)
    sketched = _sketched(wide, rounding)
    if sketched is None:
        values = torch.linalg.eigvalsh(_gram(wide)).clamp(min=0).sqrt().flip(0)
    else:
        found, left = sketched
        known = spectrum_of_factors(found).values
        unknown_count = min(wide.shape) - len(known)
        rest = known.new_full((unknown_count,), left / math.sqrt(unknown_count))
        values = torch.cat([known, rest]).sort(descending=True).values
    return Spectrum(values, noise=max(_gram_noise(float(values[0]), wide), rounding))


def rounding_noise(stored: Float[Tensor, "out in"]) -> float:
    """Bound the largest singular value of a matrix of rounding errors: 4·u·max|W|·(√out + √in), u half an epsilon."""
    unit = torch.finfo(stored.dtype).eps / 2
    return 4 * unit * float(stored.abs().max()) * sum(math.sqrt(side) for side in stored.shape)


def summed(changes: Sequence[Factors]) -> Factors:
    """Return the sum of changes of one weight as one pair of factors: their columns and rows side by side."""
    if not changes or len({change.shape for change in changes}) > 1:
        raise BadInputError(f"changes must be of one weight, got shapes {[change.shape for change in changes]}")
    b = torch.cat([in_float64(change.b) * change.scale for change in changes], dim=1)
    return Factors(b, torch.cat([in_float64(change.a) for change in changes]))


def directions(change: Factors | Float[Tensor, "out in"], count: int) -> Float[Tensor, "out count"]:
    """Return the `count` output directions that a change moves most: its leading left singular vectors."""
    if isinstance(change, Factors):
        (q_b, r_b), (_, r_a) = _qr(change.b, "reduced"), _qr(change.a.mT, "r")
        left, values, _ = torch.linalg.svd(change.scale * r_b @ r_a.mT)
        return _leading(q_b @ left, values, count)
    wide = in_float64(change)
    if sketched := _sketched(wide, rounding_noise(change)):
        return directions(sketched[0], count)
    squares, vectors = (found.flip(-1) for found in torch.linalg.eigh(_gram(wide)))
    if wide.shape[0] <= wide.shape[1]:
        return _leading(vectors, squares, count)
    moved: Tensor = wide @ _leading(vectors, squares, count)
    return moved.div(moved.norm(dim=0))


def overlap(first: Float[Tensor, "out some"], second: Float[Tensor, "out others"]) -> float:
    """Return ‖UᵀV‖²/min(some, others) of two sets of orthonormal directions.

    1 says that one holds the other, 0 that they are at right angles; random ones come to max(some, others)/out.
    """
    return float((first.mT @ second).square().sum()) / min(first.shape[1], second.shape[1])


def random_sum(norms: Sequence[float], shape: tuple[int, int], *, seed: int = 0) -> Factors:
    """Return the null model: a sum of rank-1 changes of these norms in random directions, one term for each norm."""
    generator = torch.Generator().manual_seed(seed)
    b = torch.randn(shape[0], len(norms), generator=generator, dtype=torch.float64)
    a = torch.randn(len(norms), shape[1], generator=generator, dtype=torch.float64)
    sizes = torch.tensor(norms, dtype=torch.float64)
    return Factors(b / b.norm(dim=0) * sizes, a / a.norm(dim=1, keepdim=True))


def in_float64(tensor: Tensor) -> Tensor:
    """Convert a tensor where it is, or on the CPU if it is on Apple's GPU, which has no float64."""
    return tensor.detach().to("cpu" if tensor.device.type == "mps" else tensor.device).double()


def _sketched(wide: Float[Tensor, "out in"], rounding: float) -> tuple[Factors, float] | None:
    """Return Q and Qᵀ·W with the norm of W − Q·Qᵀ·W, or `None` where that is more than the noise.

    Q spans W times random vectors (Halko, Martinsson and Tropp, SIAM Review 53, 2011, algorithm 4.1). The squares of
    the singular values found are too small by at most the square of that norm: the remainder is at right angles to Q.
    """
    least = min(wide.shape)
    if least < _LEAST_SKETCHED_SIDE:
        return None
    random = torch.randn(wide.shape[1], least // _SIDES_PER_DIRECTION, generator=torch.Generator().manual_seed(0))
    q, r = _qr(wide @ random.to(wide), "reduced")
    new = r.diagonal().abs()  # what each random vector added, about the norm of what was missing
    if float(new[-1]) > max(_gram_noise(float(new[0]), wide), rounding):
        return None
    found = Factors(q, q.mT @ wide)
    left = float(torch.addmm(wide, found.b, found.a, alpha=-1).norm())
    largest = float(torch.linalg.matrix_norm(found.a @ found.a.mT, 2)) ** 0.5
    return (found, left) if left <= max(_gram_noise(largest, wide), rounding) else None


def _gram(wide: Float[Tensor, "out in"]) -> Float[Tensor, "least least"]:
    """Return W·Wᵀ, or Wᵀ·W if that is smaller, below its diagonal only: its decompositions read no more."""
    rows = wide if wide.shape[0] <= wide.shape[1] else wide.mT
    gram = rows.new_zeros(len(rows), len(rows))
    size = max(1, -(-len(rows) // _GRAM_BLOCKS))
    for start in range(0, len(rows), size):
        end = start + size
        gram[start:end, :end] = rows[start:end] @ rows[:end].mT
    return gram


def _gram_noise(largest: float, wide: Float[Tensor, "out in"]) -> float:
    """Return what a Gram matrix hides: the root of its rounding."""
    return largest * math.sqrt(max(wide.shape) * _EPSILON)


def _qr(matrix: Tensor, mode: str) -> tuple[Tensor, Tensor]:
    q, r = torch.linalg.qr(in_float64(matrix), mode=mode)
    return q, r


def _leading(vectors: Tensor, sizes: Tensor, count: int) -> Tensor:
    rank = int((sizes > sizes[0] * len(sizes) * _EPSILON).sum())
    if not 1 <= count <= rank:
        raise BadInputError(f"count must be between 1 and the rank of the change, {rank}, got {count}")
    return vectors[:, :count]
