"""Products with 4- and 8-bit matrices in C, which read a code once and convert it on the way.

torch has no 8-bit product with groups, and its 4-bit one takes and gives bfloat16.
"""

import ctypes
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gemma_bench.models.compiled import Kernels

if TYPE_CHECKING:
    from gemma_bench.models.packed import Packed

KERNELS = Kernels(
    *(Path(__file__).with_name(name) for name in ("product.h", "product.c", "step.c")), flags=("-fopenmp",)
)

_LANES, _GROUPS = 16, 1024


class Matrix(ctypes.Structure):
    """What `product.h` calls a matrix."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("rows", "columns", "group", "bits")),
        *((name, ctypes.c_void_p) for name in ("codes", "scales", "biases")),
    )


def can_multiply(matrix: "Packed") -> bool:
    """Whether this machine has a C compiler, and the matrix has a shape that the kernel takes."""
    group_bytes, groups = matrix.group_size * matrix.bits // 8, matrix.scales.shape[1]
    return group_bytes % _LANES == 0 and groups <= _GROUPS and KERNELS.load() is not None


class CodedLinear(nn.Module):
    """y = x·Wᵀ for float32 x of any number of rows, each rounded to 16 bits."""

    words: Tensor
    scales: Tensor
    biases: Tensor

    def __init__(self, matrix: "Packed") -> None:
        """Take a matrix that `can_multiply` accepts, as it is packed; its scales become bfloat16 where they are not."""
        super().__init__()
        self.register_buffer("words", matrix.words.contiguous())
        self.register_buffer("scales", matrix.scales.bfloat16().contiguous())
        self.register_buffer("biases", matrix.biases.bfloat16().contiguous())
        self.kernel = KERNELS.required().product
        columns = matrix.group_size * matrix.scales.shape[1]
        places = (part.data_ptr() for part in (self.words, self.scales, self.biases))
        self.matrix = Matrix(len(matrix.words), columns, matrix.group_size, matrix.bits, *places)

    def forward(self, x: Float[Tensor, "row column"]) -> Float[Tensor, "row out"]:
        """Return x·Wᵀ."""
        inputs, rows = x.contiguous(), self.matrix.rows
        room, result = torch.empty(len(x), 2 * self.matrix.columns), torch.empty(len(x), rows)
        self.kernel(
            ctypes.c_int64(torch.get_num_threads()),
            ctypes.c_int64(len(x)),
            ctypes.byref(self.matrix),
            *(ctypes.c_void_p(part.data_ptr()) for part in (inputs, room, result)),
            ctypes.c_int64(rows),
        )
        return result
