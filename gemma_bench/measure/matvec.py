"""One matrix–vector product in 4 bits and in 16: what decoding is made of, with torch's own CPU kernels."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np

from gemma_bench.measure.bandwidth import buffer_bytes
from gemma_bench.measure.comparison import Comparison, compare

if TYPE_CHECKING:
    from torch import Tensor

SHAPE_12B = (15_360, 3840)
"""Rows and columns of 12b's gate and up projections."""

GROUP_SIZE = 64

_ROUNDING = 0.005


@dataclass(frozen=True)
class Product:
    """A way to multiply: the bytes that one product must read, and the product itself, each on the next copy."""

    name: str
    weights_bytes: int
    run: Callable[[], object]

    def seconds(self) -> float:
        """Time one product."""
        start = time.perf_counter_ns()
        self.run()
        return (time.perf_counter_ns() - start) / 1e9


@dataclass(frozen=True)
class ProductTimes:
    """Both products in turn: seconds of 16 bits over 4 bits, and what each reads per second at its median."""

    comparison: Comparison
    bf16_bytes_per_s: float
    int4_bytes_per_s: float


def time_products(shape: tuple[int, int] = SHAPE_12B, rounds: int = 10) -> ProductTimes:
    """Time bf16 and 4-bit products of one shape in turn, over more copies than any cache holds."""
    sixteen, four = bf16_product(shape), int4_product(shape)
    found = compare(sixteen.seconds, four.seconds, rounds)
    return ProductTimes(
        comparison=found,
        bf16_bytes_per_s=sixteen.weights_bytes / float(np.median(found.a)),
        int4_bytes_per_s=four.weights_bytes / float(np.median(found.b)),
    )


def bf16_product(shape: tuple[int, int] = SHAPE_12B, copies_bytes: int | None = None) -> Product:
    """Return the product in bf16, every call on the next of as many copies as fill 8 × the last-level cache."""
    import torch

    matrix = random_matrix(shape).to(torch.bfloat16)
    copies = cycle([matrix.clone() for _ in range(_copies(matrix.nbytes, copies_bytes))])
    vector = torch.ones(shape[1], dtype=torch.bfloat16)
    return Product("bf16", matrix.nbytes, lambda: torch.mv(next(copies), vector))


def int4_product(shape: tuple[int, int] = SHAPE_12B, copies_bytes: int | None = None) -> Product:
    """Return the product in 4 bits with groups of 64 (4.5 bits per weight, as in MLX), on the next copy every call."""
    import torch

    packed, scales = quantised(random_matrix(shape))
    size_bytes = packed.nbytes + scales.nbytes
    copies = cycle([(packed.clone(), scales.clone()) for _ in range(_copies(size_bytes, copies_bytes))])
    vector = torch.ones(1, shape[1], dtype=torch.bfloat16)
    return Product("4-bit", size_bytes, lambda: int4_times(vector, *next(copies)))


def int4_times(vectors: "Tensor", packed: "Tensor", scales: "Tensor") -> "Tensor":
    """Multiply by a packed matrix with torch's kernel for CPUs."""
    import torch

    product: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(vectors, packed, GROUP_SIZE, scales)
    return product


def quantised(matrix: "Tensor") -> tuple["Tensor", "Tensor"]:
    """Pack a matrix as torch's kernel takes it: 4-bit values, and per group of 64 a bf16 scale and the middle's value.

    A weight is (value − 8) · scale + middle.
    """
    import torch

    values, scale, middle = _grid(matrix)
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(values.flatten(1), 1)
    return packed, torch.stack([scale, middle], -1).transpose(0, 1).contiguous().to(torch.bfloat16)


def _grid(matrix: "Tensor") -> tuple["Tensor", "Tensor", "Tensor"]:
    """Return each group's 4-bit values, and its scale and middle."""
    import torch

    groups = matrix.float().unflatten(1, (-1, GROUP_SIZE))
    low, high = groups.amin(-1), groups.amax(-1)
    scale = ((high - low) / 15).clamp(min=1e-6)
    values = ((groups - low[..., None]) / scale[..., None]).round().clamp(0, 15).to(torch.int32)
    return values, scale, low + 8 * scale


def right_rows_share(shape: tuple[int, int] = SHAPE_12B) -> float:
    """Return the share of rows that the 4-bit product gets right: what is faster by leaving rows out is no product.

    The known answer is the product with the same weights, unpacked, in float64; half a percent of the largest row is
    what the kernel's bfloat16 may be off.
    """
    import torch

    matrix, vector = random_matrix(shape), torch.ones(1, shape[1], dtype=torch.bfloat16)
    found = int4_times(vector, *quantised(matrix))[0].double()
    known = unpacked(matrix) @ vector[0].double()
    is_right = (found - known).abs() <= _ROUNDING * known.abs().max()
    return float(is_right.double().mean())


def unpacked(matrix: "Tensor") -> "Tensor":
    """Return what a matrix is after `quantised`, in float64."""
    values, scale, middle = _grid(matrix)
    groups = (values - 8) * scale[..., None].bfloat16().double() + middle[..., None].bfloat16().double()
    return groups.flatten(1)


def random_matrix(shape: tuple[int, int]) -> "Tensor":
    """Return seeded normal values."""
    import torch

    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _copies(size_bytes: int, copies_bytes: int | None) -> int:
    return max(1, -(-(copies_bytes or buffer_bytes()) // size_bytes))
