"""Gemma-3-style and GPT-2-style transformers, many at a time, in the same operations.

Equal to `Gemma3ForCausalLM` (all layers global, no sliding window shorter than the sequence) and to `GPT2LMHeadModel`
(no dropout) on the same weights.
"""

from collections.abc import Callable, Mapping
from functools import cache
from math import prod, sqrt

import torch
from torch import Tensor

from gemma_bench.training.stack.operations import Heads, Operations, Rotation
from gemma_bench.training.stack.shape import Shape

Weights = Mapping[str, Tensor]
"""A stack's tensors by name, each with the model as its first axis."""


def unpack(flat: Tensor, shape: Shape) -> dict[str, Tensor]:
    """View a stack, one model per row, as its tensors."""
    tensors = shape.tensors
    parts = flat.split([prod(size) for size in tensors.values()], 1)
    return {name: part.view(-1, *size) for (name, size), part in zip(tensors.items(), parts, strict=True)}


def final_states(weights: Weights, tokens: Tensor, shape: Shape, ops: Operations) -> Tensor:
    """Return the states that the tied head reads, `model token feature`, of `tokens`, `model sequence position`."""
    return _STYLES[shape.style](weights, tokens.reshape(len(tokens), -1), tokens.shape[2], shape, ops)


def losses(flat: Tensor, tokens: Tensor, shape: Shape, ops: Operations, precision: torch.dtype) -> Tensor:
    """Return every model's mean loss in nats on its sequences of length + 1 tokens, the first of which is given."""
    weights = unpack(flat if flat.dtype == precision else flat.to(precision), shape)
    states = final_states(weights, tokens[:, :, :-1], shape, ops)
    return ops.cross_entropy(states, weights["embedding"], tokens[:, :, 1:].reshape(len(tokens), -1))


def token_nats(flat: Tensor, tokens: Tensor, shape: Shape, ops: Operations) -> Tensor:
    """Return what every predicted token costs every model, `model sequence position`."""
    weights = unpack(flat, shape)
    states = final_states(weights, tokens[:, :, :-1], shape, ops)
    logits = torch.bmm(states, weights["embedding"].transpose(1, 2)).float()
    targets = tokens[:, :, 1:].reshape(len(tokens), -1, 1)
    costs = logits.logsumexp(-1) - logits.gather(-1, targets).squeeze(-1)
    return costs.view(len(tokens), tokens.shape[1], -1)


@cache
def rotation(shape: Shape, length: int, device: torch.device) -> Rotation:
    """Return cosines and sines of the rotary position embedding, both halves of a head alike."""
    powers = torch.arange(0, shape.head_width, 2, dtype=torch.float32) / shape.head_width
    angles = torch.outer(torch.arange(length, dtype=torch.float32), 1.0 / shape.rope_base**powers).repeat(1, 2)
    return angles.cos().to(device), angles.sin().to(device)


def _gemma3(weights: Weights, tokens: Tensor, length: int, shape: Shape, ops: Operations) -> Tensor:
    heads = Heads(shape.heads, shape.groups, shape.head_width, 1 / sqrt(shape.head_width), shape.epsilon)
    turns = rotation(shape, length, tokens.device)
    x = ops.embed(weights["embedding"], tokens, sqrt(shape.width))
    for layer in range(shape.layers):
        w = _layer(weights, layer)
        normed = ops.rms(x, w["attention_norm"], shape.epsilon, None)
        mixed = ops.attention(linear(normed, w["qkv"]), w["query_norm"], w["key_norm"], turns, heads, length)
        x = ops.rms(linear(mixed, w["out"]), w["attention_post_norm"], shape.epsilon, x)
        gated = ops.geglu(linear(ops.rms(x, w["mlp_norm"], shape.epsilon, None), w["gate_up"]))
        x = ops.rms(linear(gated, w["down"]), w["mlp_post_norm"], shape.epsilon, x)
    return ops.rms(x, weights["norm"], shape.epsilon, None)


def _gpt2(weights: Weights, tokens: Tensor, length: int, shape: Shape, ops: Operations) -> Tensor:
    heads = Heads(shape.heads, shape.groups, shape.head_width, 1 / sqrt(shape.head_width), shape.epsilon)
    x = ops.embed(weights["embedding"], tokens, 1.0)
    x = (x.view(len(x), -1, length, shape.width) + weights["positions"][:, None, :length]).view_as(x)
    for layer in range(shape.layers):
        w = _layer(weights, layer)
        normed = ops.layer_norm(x, w["attention_norm"], w["attention_norm_bias"], shape.epsilon)
        mixed = ops.attention(linear(normed, w["qkv"], w["qkv_bias"]), None, None, None, heads, length)
        x = x + linear(mixed, w["out"], w["out_bias"])
        normed = ops.layer_norm(x, w["mlp_norm"], w["mlp_norm_bias"], shape.epsilon)
        x = x + linear(ops.gelu(linear(normed, w["up"], w["up_bias"])), w["down"], w["down_bias"])
    return ops.layer_norm(x, weights["norm"], weights["norm_bias"], shape.epsilon)


_STYLES: dict[str, Callable[[Weights, Tensor, int, Shape, Operations], Tensor]] = {"gemma3": _gemma3, "gpt2": _gpt2}


def _layer(weights: Weights, layer: int) -> dict[str, Tensor]:
    prefix = f"{layer}."
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def linear(x: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply every model's rows by its own matrix, `model out in`."""
    if bias is None:
        return torch.bmm(x, matrix.transpose(1, 2))
    return torch.baddbmm(bias[:, None], x, matrix.transpose(1, 2))
