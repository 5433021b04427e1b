"""How large activations get on their way through the layers."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from gemma_bench.models.torch_backend import TorchBackend

FLOAT16_LARGEST = 65504.0


def residual_peaks(backend: TorchBackend, tokens: Sequence[int]) -> list[float]:
    """Return the largest absolute entry of the residual stream after each layer."""
    peaks: list[float] = []

    def read(module: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ARG001
        hidden = output[0] if isinstance(output, tuple) else output
        peaks.append(float(hidden.abs().max()))

    handles = [layer.register_forward_hook(read) for layer in residual_layers(backend.model)]
    try:
        backend.logits([list(tokens)], last_only=True)
    finally:
        for handle in handles:
            handle.remove()
    return peaks


def residual_layers(model: Any) -> nn.ModuleList:
    """Return the modules whose output is the residual stream."""
    layers: nn.ModuleList = model.model.layers
    return layers


def has_finite_logits(backend: TorchBackend, tokens: Sequence[int]) -> bool:
    """Tell whether all logits of the last position are numbers."""
    return bool(torch.isfinite(backend.logits([list(tokens)], last_only=True)).all())
