"""Matrices as MLX packs them, and torch's own 4-bit CPU kernel for machines that cannot build ours (see `product`).

torch's computes x·W with w = (q − 8)·scale + zero, which is MLX's w = q·scale + bias with zero = bias + 8·scale. 8 bits
are two planes of 4, q = 16·high + low, side by side in one product: torch's 8-bit kernel has no groups and is no faster
(oneDNN's is, but rounds x to 8 bits too, which raises the 270M's perplexity by 0.3 and more).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from gemma_bench.models.product import CodedLinear, can_multiply

SERVED_BITS = (4, 8)

_ROWS = 64
"""The kernel's layout takes rows in blocks; missing ones are zeros whose results are cut off."""

_SLICE = 256 * _ROWS
"""The layout is made from 32-bit codes, slice by slice: eight times a 4-bit matrix would be much."""

_MIDDLE = 8
_PLANE = 16
WORD_BITS = 32


def unpack(words: Int[Tensor, "row word"], bits: int) -> UInt8[Tensor, "row column"]:
    """Return the codes that MLX packed into 32-bit words, the first one in the lowest bits."""
    octets = words.view(torch.uint8)
    if bits == 8:  # noqa: PLR2004 - a code is a byte
        return octets
    return torch.stack((octets & 15, octets >> 4), dim=-1).flatten(-2)


def pack(codes: UInt8[Tensor, "row column"], bits: int) -> Int[Tensor, "row word"]:
    """Pack codes as MLX does: the inverse of `unpack`."""
    octets = codes if bits == 8 else codes[:, 0::2] | codes[:, 1::2] << 4  # noqa: PLR2004
    return octets.contiguous().view(torch.uint32)


@dataclass(frozen=True)
class Packed:
    """One matrix as MLX's folders hold it: w = q·scale + bias, codes in 32-bit words, a scale and a bias per group."""

    words: Int[Tensor, "row word"]
    scales: Float[Tensor, "row group"]
    biases: Float[Tensor, "row group"]
    bits: int

    @property
    def group_size(self) -> int:
        """Return how many neighbours share a scale."""
        return self.words.shape[1] * WORD_BITS // self.bits // self.scales.shape[1]

    def codes(self) -> UInt8[Tensor, "row column"]:
        """Return the codes, 0 … 2^bits − 1."""
        return unpack(self.words, self.bits)

    def rows(self, index: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape column"]:
        """Return some rows in float32, reading no others."""
        codes = unpack(self.words[index], self.bits).float().unflatten(-1, (-1, self.group_size))
        rows: Tensor = codes * self.scales[index].float()[..., None] + self.biases[index].float()[..., None]
        return rows.flatten(-2)


class Int4Linear(nn.Module):
    """y = x·Wᵀ by torch's 4-bit CPU kernel, which rounds any number of rows of float32 to bfloat16."""

    packed: Tensor
    scales_and_zeros: Tensor

    def __init__(self, matrix: Packed) -> None:
        """Lay a matrix out for the kernel; its bits are 4 or 8, its scales become bfloat16 where they are not.

        Zeros are rounded to bfloat16 too, which moves a weight by at most 2⁻⁹ of its group's middle.
        """
        super().__init__()
        codes, scales = matrix.codes(), matrix.scales.float()
        zeros = matrix.biases.float() + scales * (_MIDDLE if matrix.bits == 4 else _MIDDLE * _PLANE)  # noqa: PLR2004
        self.plane_count = matrix.bits // 4
        if self.plane_count == 2:  # noqa: PLR2004 - high codes with the zeros, then low ones about their own middle
            codes = torch.cat((codes >> 4, codes & 15), dim=1)
            scales, zeros = torch.cat((scales * _PLANE, scales), 1), torch.cat((zeros, scales * _MIDDLE), 1)
        self.rows, self.group_size = len(codes), matrix.group_size
        missing = -self.rows % _ROWS
        codes, scales, zeros = (nn.functional.pad(part, (0, 0, 0, missing)) for part in (codes, scales, zeros))
        laid_out = [torch.ops.aten._convert_weight_to_int4pack_for_cpu(part.int(), 1) for part in codes.split(_SLICE)]
        self.register_buffer("packed", torch.cat(laid_out))
        self.register_buffer("scales_and_zeros", torch.stack((scales.T, zeros.T), -1).bfloat16().contiguous())

    def forward(self, x: Float[Tensor, "row column"]) -> Float[Tensor, "row out"]:
        """Return x·Wᵀ."""
        planes = torch.cat([x.bfloat16()] * self.plane_count, dim=1)
        result: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            planes, self.packed, self.group_size, self.scales_and_zeros
        )
        return result[:, : self.rows].float()


def linear(matrix: Packed) -> CodedLinear | Int4Linear:
    """Take the better kernel that serves a matrix here."""
    return CodedLinear(matrix) if can_multiply(matrix) else Int4Linear(matrix)


class Stacked(nn.Module):
    """Several matrices that read the same input, in as few products as their bits allow."""

    def __init__(self, matrices: Sequence[Packed]) -> None:
        """Join neighbours of the same bits and groups."""
        super().__init__()
        self.parts = nn.ModuleList()
        for _, alike in groupby(matrices, key=lambda one: (one.bits, one.group_size)):
            self.parts.append(linear(_joined(list(alike))))

    def forward(self, x: Float[Tensor, "row column"]) -> Float[Tensor, "row out"]:
        """Return all results side by side."""
        if len(self.parts) == 1:
            only: Tensor = self.parts[0](x)
            return only
        return torch.cat([part(x) for part in self.parts], dim=1)


def _joined(matrices: Sequence[Packed]) -> Packed:
    """Return the rows of all matrices as one; a single matrix is not copied."""
    if len(matrices) == 1:
        return matrices[0]
    words, scales, biases = (
        torch.cat([getattr(matrix, name) for matrix in matrices]) for name in ("words", "scales", "biases")
    )
    return Packed(words, scales, biases, matrices[0].bits)
