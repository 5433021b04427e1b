"""Gradients of frozen weights, read as products while a backward pass holds their factors.

The gradient of a linear layer's weight is δᵀ·x: output gradients by inputs, a row for each token. Both exist during the
backward pass; keeping them until the step costs tokens·(out + in) instead of out·in, and no product is formed.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from jaxtyping import Float
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


class GradientFactors:
    """Output gradients and inputs of adapted layers, of all backward passes since the last `clear`."""

    def __init__(self) -> None:
        """Watch nothing yet."""
        self.is_watching = False
        self._seen: dict[str, list[tuple[Tensor, Tensor]]] = {}
        self._handles: list[RemovableHandle] = []

    def watch(self, model_layers: Mapping[str, LoraLayer]) -> None:
        """Put hooks into layers; nothing is kept while `is_watching` is false."""
        modules = {name: cast(nn.Module, layer) for name, layer in model_layers.items()}
        self._handles = [module.register_forward_hook(self._hook(name)) for name, module in modules.items()]

    def stop(self) -> None:
        """Take the hooks out."""
        for handle in self._handles:
            handle.remove()
        self.clear()

    def clear(self) -> None:
        """Forget what was seen."""
        self._seen = {}

    def _hook(self, name: str) -> Callable[..., None]:
        def seen(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:  # noqa: ARG001
            if self.is_watching and torch.is_grad_enabled():
                if not output.requires_grad:  # nothing that learns comes before: the backward pass ends here
                    output.requires_grad_()
                x = inputs[0].detach().flatten(0, -2)
                keep = self._seen.setdefault(name, [])
                output.register_hook(lambda delta: keep.append((delta.flatten(0, -2), x)))

        return seen

    def of(self, name: str) -> tuple[Float[Tensor, "token out"], Float[Tensor, "token in"]]:
        """Return δ and x of a layer in float32: the gradient of its weight is δᵀ·x."""
        deltas, inputs = zip(*self._seen[name], strict=True)
        if len(deltas) == 1:
            return deltas[0].float(), inputs[0].float()
        return torch.cat(deltas).float(), torch.cat(inputs).float()

    def whole(self, name: str, dtype: torch.dtype = torch.float32) -> Float[Tensor, "out in"]:
        """Return the gradient itself, multiplied in a type that may be a rounder one."""
        out, into = self.of(name)
        return (out.to(dtype).T @ into.to(dtype)).float()
