"""The spectrum of a loss's gradient in every matrix of a model: its rank is at most the number of tokens read.

A linear layer's gradient is δᵀX, one row of outputs' gradients and one of inputs for each token.
"""

from collections.abc import Collection
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gemma_bench.core.errors import BadInputError
from gemma_bench.measure.spectrum import Spectrum, spectrum_of_matrix


def gradient_spectra(
    model: Any, ids: Int[Tensor, "batch length"], layers: Collection[int] | None = None
) -> dict[str, Spectrum]:
    """Return the spectrum of the gradient of each projection, by its name, in some layers or in all.

    All tokens but each row's last are read, and all but its first predicted: `batch · (length − 1)` are read.
    """
    if ids.ndim != 2 or ids.shape[1] < 2:  # noqa: PLR2004 - rows of a token read and one predicted
        raise BadInputError(f"ids must be rows of at least 2 tokens, got shape {tuple(ids.shape)}")
    weights = projections(model, layers)
    found = torch.autograd.grad(next_token_loss(model, ids), list(weights.values()))
    return {name: spectrum_of_matrix(gradient) for name, gradient in zip(weights, found, strict=True)}


def projections(model: Any, layers: Collection[int] | None = None) -> dict[str, Tensor]:
    """Return the weights of the linear maps inside a model's layers: `3.self_attn.q_proj`, …."""
    stack: nn.ModuleList = model.model.layers
    chosen = range(len(stack)) if layers is None else layers
    return {
        f"{index}.{path}": part.weight
        for index in chosen
        for path, part in stack[index].named_modules()
        if isinstance(part, nn.Linear)
    }


def next_token_loss(model: Any, ids: Int[Tensor, "batch length"]) -> Float[Tensor, ""]:
    """Return the mean loss in nats of every next token."""
    logits: Tensor = model(input_ids=ids[:, :-1], use_cache=False).logits
    return nn.functional.cross_entropy(logits.flatten(0, 1).to(torch.float64), ids[:, 1:].flatten())
