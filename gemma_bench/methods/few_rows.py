"""Products of a block's few rows with large matrices, in C: torch's are made for one row or for many.

For 8 rows of the real head, torch's product takes four times as long as for one in float32, and eight times in bfloat16
where the processor has no instructions for it; the kernel's takes one and a half.
"""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gemma_bench.models.compiled import Kernels

KERNELS = Kernels(Path(__file__).with_name("few_rows.c"), flags=("-fopenmp",))

_FEWEST_ROWS, _MOST_ROWS = 2, 32
_SMALLEST, _LARGE_HEAD = 1 << 17, 1 << 24
"""Elements of a matrix from which on a call of the kernel pays, and of a head from which on a model has such ones."""

_FOURS, _LANES, _LONGEST = 4, 16, 8192


def few_row_products(model: Any) -> Callable[[], AbstractContextManager[None]]:
    """Return what makes a context in which the model's products of 2 to 32 rows are the kernel's, without gradients.

    The context changes nothing for a small model, on another device than the CPU, or where no C compiler is.
    """
    head = model.get_output_embeddings().weight
    serves = head.device.type == "cpu" and head.numel() >= _LARGE_HEAD and KERNELS.load() is not None
    return _taken_over if serves else nullcontext


@contextmanager
def _taken_over() -> Iterator[None]:
    """Take over torch's linear layers, in inference mode only; a function mode would cost 15 ms a pass."""
    plain = nn.Linear.forward

    def forward(self: nn.Linear, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        is_ours = torch.is_inference_mode_enabled() and self.bias is None and is_served(input, self.weight)
        return product(input, self.weight) if is_ours else plain(self, input)

    nn.Linear.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Linear.forward = plain  # type: ignore[method-assign]


def is_served(x: Float[Tensor, "*row column"], weight: Float[Tensor, "out column"]) -> bool:
    """Whether the kernel takes these rows and this matrix, and is the faster one."""
    count, columns = weight.shape
    return (
        weight.numel() >= _SMALLEST
        and _FEWEST_ROWS <= x.numel() // columns <= _MOST_ROWS
        and x.dtype == weight.dtype
        and (x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and not torch.cpu._is_avx512_bf16_supported()))
        and weight.is_contiguous()
        and count % _FOURS == 0
        and columns % _LANES == 0
        and columns <= _LONGEST
    )


def product(x: Float[Tensor, "*row column"], weight: Float[Tensor, "out column"]) -> Float[Tensor, "*row out"]:
    """Return x·Wᵀ, summed in float32, for what `is_served`."""
    inputs = x.float().contiguous()
    result = torch.empty(*x.shape[:-1], len(weight))
    rows, is_bfloat = x.numel() // x.shape[-1], weight.dtype == torch.bfloat16
    counts = (torch.get_num_threads(), rows, len(weight), x.shape[-1], int(is_bfloat))
    places = (part.data_ptr() for part in (inputs, weight, result))
    KERNELS.required().few_rows(*map(ctypes.c_int64, counts), *map(ctypes.c_void_p, places))
    return result.to(x.dtype)
