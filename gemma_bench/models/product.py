"""Products with 8-bit matrices in C, which read a code once and convert it on the way: memory sets their pace.

torch has no 8-bit product with groups; two of its 4-bit ones in place of one take up to twice the time.
"""

import ctypes
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import BFloat16
from torch import Tensor, nn

from gemma_bench.core.errors import UnavailableError
from gemma_bench.models.compiled import library

if TYPE_CHECKING:
    from gemma_bench.models.packed import Packed

_SOURCES = (Path(__file__).with_name("product.c"),)

_ROWS, _LANES = 4, 16


def can_multiply(matrix: "Packed") -> bool:
    """Whether this machine has a C compiler, and the matrix is of 8 bits and a shape that the kernel takes."""
    rows, group_size = matrix.words.shape[0], matrix.group_size
    fits = matrix.bits == 8 and rows % _ROWS == 0 and group_size % _LANES == 0  # noqa: PLR2004
    return fits and _kernel() is not None


def _kernel() -> ctypes.CDLL | None:
    return library(_SOURCES, "-fopenmp")


class Int8Linear(nn.Module):
    """y = x·Wᵀ in float32, for bfloat16 x of any number of rows."""

    words: Tensor
    scales: Tensor
    biases: Tensor

    def __init__(self, matrix: "Packed") -> None:
        """Take a matrix that `can_multiply` accepts, as it is packed; its scales become bfloat16 where they are not."""
        kernel = _kernel()
        if kernel is None:
            raise UnavailableError("compiler", "8-bit products need a C compiler: install gcc or clang")
        super().__init__()
        self.rows, self.group_size = len(matrix.words), matrix.group_size
        self.register_buffer("words", matrix.words.contiguous())
        self.register_buffer("scales", matrix.scales.bfloat16().contiguous())
        self.register_buffer("biases", matrix.biases.bfloat16().contiguous())
        self.kernel = kernel.product
        self.matrix = [ctypes.c_void_p(part.data_ptr()) for part in (self.words, self.scales, self.biases)]

    def forward(self, x: BFloat16[Tensor, "row column"]) -> BFloat16[Tensor, "row out"]:
        """Return x·Wᵀ."""
        inputs = x.float().contiguous()
        sums = inputs.unflatten(1, (-1, self.group_size)).sum(-1)
        result = torch.empty(len(x), self.rows)
        counts = (torch.get_num_threads(), len(x), self.rows, x.shape[1], self.group_size)
        self.kernel(
            *map(ctypes.c_int64, counts),
            *(ctypes.c_void_p(part.data_ptr()) for part in (inputs, sums)),
            *self.matrix,
            ctypes.c_void_p(result.data_ptr()),
        )
        return result.bfloat16()
