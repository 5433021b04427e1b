"""The operations of a stack of transformers on torch tensors: any device, any precision, autograd throughout."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_LEAST_PROBABILITY = 1e-30


@dataclass(frozen=True)
class Heads:
    """How attention is laid out: `heads` queries share `groups` keys and values of `width` features."""

    heads: int
    groups: int
    width: int
    scale: float
    epsilon: float


Rotation = tuple[Tensor, Tensor]
"""Cosines and sines, position × feature."""


@dataclass(frozen=True)
class Operations:
    """What a block is made of. The first axis of every tensor is the model; a model's tokens lie in one row of rows.

    Shapes: x `model token feature`, a norm's weight `model feature`, tokens `model token`, table `model symbol
    feature`.
    """

    embed: Callable[[Tensor, Tensor, float], Tensor]
    rms: Callable[[Tensor, Tensor, float, Tensor | None], Tensor]
    layer_norm: Callable[[Tensor, Tensor, Tensor, float], Tensor]
    attention: Callable[[Tensor, Tensor | None, Tensor | None, Rotation | None, Heads, int], Tensor]
    gelu: Callable[[Tensor], Tensor]
    geglu: Callable[[Tensor], Tensor]
    cross_entropy: Callable[[Tensor, Tensor, Tensor], Tensor]
    adamw: Callable[..., None]


def embed(table: Tensor, tokens: Tensor, scale: float) -> Tensor:
    """Look tokens up in their model's table and scale them."""
    models, symbols, width = table.shape
    offsets = torch.arange(models, device=tokens.device)[:, None] * symbols
    rows = table.reshape(models * symbols, width).index_select(0, (tokens + offsets).view(-1))
    rows = rows.view(*tokens.shape, width)
    return rows if scale == 1 else rows * scale


def rms(x: Tensor, weight: Tensor, epsilon: float, residual: Tensor | None = None) -> Tensor:
    """Norm as Gemma does, in float32, by the root of the mean square and 1 + weight, and add a residual."""
    wide = x.float()
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
    scale = 1 + weight.float()
    normed = (normed * scale.reshape(len(scale), *(1,) * (x.ndim - 2), -1)).to(x.dtype)
    return normed if residual is None else residual + normed


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """LayerNorm with every model's own weight and bias."""
    return torch.addcmul(bias[:, None], functional.layer_norm(x, x.shape[-1:], eps=epsilon), weight[:, None])


def attention(
    qkv: Tensor, query: Tensor | None, key: Tensor | None, rotation: Rotation | None, heads: Heads, length: int
) -> Tensor:
    """Causal attention within sequences of `length` tokens, with norms of queries and keys and rotation where given."""
    models, tokens, _ = qkv.shape
    by_head = qkv.view(models, tokens, heads.heads + 2 * heads.groups, heads.width)
    queries, keys, values = by_head.split((heads.heads, heads.groups, heads.groups), 2)
    if query is not None and key is not None:
        queries, keys = rms(queries, query, heads.epsilon), rms(keys, key, heads.epsilon)

    def turned(x: Tensor) -> Tensor:
        x = x.reshape(-1, length, x.shape[2], heads.width).transpose(1, 2)  # sequence head position feature
        return x if rotation is None else _rotated(x, *rotation)

    values = values.reshape(-1, length, heads.groups, heads.width).transpose(1, 2)
    mixed = functional.scaled_dot_product_attention(
        turned(queries),
        turned(keys),
        values,
        is_causal=True,
        scale=heads.scale,
        enable_gqa=heads.heads != heads.groups,
    )
    return mixed.transpose(1, 2).reshape(models, tokens, heads.heads * heads.width)


def _rotated(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    turned = x.float() * cosine + torch.cat((-second, first), -1).float() * sine
    return turned.to(x.dtype)


def gelu(x: Tensor) -> Tensor:
    """GELU in its tanh form."""
    return functional.gelu(x, approximate="tanh")


def geglu(x: Tensor) -> Tensor:
    """gelu(gate) · up, of features that hold the gates and then the ups."""
    gate, up = x.chunk(2, -1)
    return gelu(gate) * up


class _CrossEntropy(torch.autograd.Function):
    """Logits become their own gradient in the forward pass: they are the largest tensor, and are held once."""

    @staticmethod
    def forward(context: Any, hidden: Tensor, table: Tensor, targets: Tensor) -> Tensor:
        logits = torch.bmm(hidden, table.transpose(1, 2))
        probabilities = torch.softmax(logits, -1, dtype=torch.float32)
        del logits
        places = targets[..., None]
        right = probabilities.gather(-1, places)
        probabilities.scatter_add_(-1, places, torch.full_like(right, -1))
        context.save_for_backward(hidden, table, (probabilities.div_(hidden.shape[1])).to(hidden.dtype))
        return -right.clamp_min(_LEAST_PROBABILITY).log().mean((1, 2))

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden, table, error = context.saved_tensors
        factor = gradients[0][:, None, None]
        to_hidden = torch.bmm(error, (table * factor).to(table.dtype))
        return to_hidden, torch.bmm(error.transpose(1, 2), (hidden * factor).to(hidden.dtype)), None


def cross_entropy(hidden: Tensor, table: Tensor, targets: Tensor) -> Tensor:
    """Return every model's mean loss in nats under a head tied to the embedding table."""
    loss: Tensor = _CrossEntropy.apply(hidden, table, targets)  # type: ignore[no-untyped-call]
    return loss


def adamw(
    weights: Tensor,
    gradient: Tensor,
    first: Tensor,
    second: Tensor,
    scales: Tensor,
    *,
    beta1: float,
    beta2: float,
    epsilon: float,
) -> None:
    """Step every model in place; `scales` holds per model rate / (1 − β₁ᵗ) and 1 / √(1 − β₂ᵗ)."""
    first.lerp_(gradient.to(first.dtype), 1 - beta1)
    second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    rate, root = scales.to(weights.dtype).unsqueeze(-1).unbind(1)
    weights.sub_(rate * first / (second.sqrt() * root + epsilon))


TORCH = Operations(embed, rms, layer_norm, attention, gelu, geglu, cross_entropy, adamw)
