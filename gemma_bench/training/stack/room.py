"""The memory that a stack will take, known before it trains and linear in its models; one without room is refused."""

from collections.abc import Callable
from math import inf

import torch
from torch import Tensor

from gemma_bench.core.errors import UnavailableError
from gemma_bench.training.free_memory import free_bytes
from gemma_bench.training.stack.arms import PRECISIONS, Training
from gemma_bench.training.stack.blocks import losses
from gemma_bench.training.stack.kernels import PIECE_LOGITS
from gemma_bench.training.stack.operations import TORCH
from gemma_bench.training.stack.shape import Shape
from gemma_bench.training.stack.stepper import operations

_HELD_COPIES = 3
"""Weights and two moments."""

_STEP_COPIES, _STEP_COPIES_IN_C = 7, 6
"""Those, the gradient and its parts, and what AdamW computes on the way."""

_FLOAT_BYTES = 4


def model_bytes(shape: Shape, training: Training, device: str = "cpu") -> int:
    """Return the peak of live tensors per model: at the loss, or when all gradients are there."""
    held, computed = PRECISIONS[training.precision]
    kept_by_one, kept_by_two = (_kept_bytes(shape, training, device, batch) for batch in (1, 2))
    kept = kept_by_one + (training.batch - 1) * (kept_by_two - kept_by_one)
    weights, logits = shape.parameter_count * held.itemsize, training.batch * shape.length * shape.symbols
    if operations(device, training.precision) is not TORCH:
        return _STEP_COPIES_IN_C * weights + kept + _FLOAT_BYTES * min(logits, PIECE_LOGITS)
    rounded = logits * computed.itemsize
    softmax = rounded + _FLOAT_BYTES * logits * (1 if computed == torch.float32 else 2)
    copy = shape.parameter_count * computed.itemsize if computed != held else 0
    return copy + max(_HELD_COPIES * weights + kept - rounded + softmax, _STEP_COPIES * weights + kept)


def check_room(
    models: int, shape: Shape, training: Training, device: str, free: Callable[[str], int] = free_bytes
) -> int:
    """Return the bytes that a stack will take.

    Raises `UnavailableError("memory")`, with the largest stack that fits, where that is more than is free.
    """
    each, room = model_bytes(shape, training, device), free(device)
    if models * each > room:
        raise UnavailableError(
            "memory",
            f"{models} models need {models * each / 1e9:.3g} GB and {room / 1e9:.3g} GB are free: "
            f"the largest stack that fits has {room // each} models",
        )
    return models * each


def _kept_bytes(shape: Shape, training: Training, device: str, batch: int) -> int:
    """Count what autograd keeps of a forward pass of one model, each storage once, its weights left out."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage._cdata] = storage.nbytes()
        return tensor

    held, computed = PRECISIONS[training.precision]
    weights = torch.zeros(1, shape.parameter_count, dtype=held, device=device, requires_grad=True)
    tokens = torch.zeros(1, batch, shape.length + 1, dtype=torch.int64, device=device)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = losses(weights, tokens, shape, operations(device, training.precision), computed)
    del kept
    return sum(size for size in storages.values() if size not in (held.itemsize * shape.parameter_count, inf))
