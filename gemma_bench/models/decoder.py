"""Gemma 3's forward in few plain operations, for weights that transformers' modules cannot hold.

All is float32 but keys and values, and with them attention, which are of the weights' `dtype`. Steps of one token need
no mask (see `ring_cache`) and, where a C compiler is, take the short way through `step`.
Legend: position counts the tokens of this call, token those of the whole text that a layer still keeps.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from gemma_bench.models.catalog import Size
from gemma_bench.models.ring_cache import Kept, RingCache

Projection = Callable[[Tensor], Tensor]
"""Takes rows [row, column] and returns [row, out], both in float32."""

Rotation = tuple[Float[Tensor, "position width"], Float[Tensor, "position width"]]
"""Cosines, and sines whose first half is negated: rotating is then x·cos + roll(x)·sin."""

MaskTensors = Mapping[str, Bool[Tensor, "position token"]]

Keep = Callable[[int, Kept, Kept], tuple[Kept, Kept]]

_EPSILON = 1e-6


@dataclass(frozen=True)
class LayerWeights:
    """One layer's projections, those of one input joined, and its norms as 1 + weight in float32."""

    query_key_value: Projection
    output: Projection
    gate_up: Projection
    down: Projection
    query_key_norm: Float[Tensor, "head 1 width"]
    norms: Sequence[Float[Tensor, " hidden"]]  # before and after attention, before and after the feed-forward


@dataclass(frozen=True)
class DecoderWeights:
    """All that a decoder needs; `rows` looks up the embedding in float32, `dtype` is that of keys and values."""

    rows: Callable[[Int[Tensor, "batch position"]], Float[Tensor, "batch position hidden"]]
    layers: Sequence[LayerWeights]
    norm: Float[Tensor, " hidden"]
    head: Projection
    dtype: torch.dtype


class Decoder:
    """Gemma 3 over given weights."""

    def __init__(self, size: Size, weights: DecoderWeights) -> None:
        """Prepare the rotations of both kinds of layers."""
        self.size, self.weights = size, weights
        self.scale = size.query_pre_attn_scalar**-0.5
        self.embedding_scale = float(torch.tensor(size.hidden_size**0.5).to(weights.dtype))
        half = torch.arange(0, size.head_dim, 2) / size.head_dim
        bases = {"full_attention": size.rope_theta, "sliding_attention": size.rope_local_base_freq}
        self.frequencies = {kind: 1.0 / base**half for kind, base in bases.items()}
        self.frequencies["full_attention"] /= size.rope_scaling_factor or 1.0

    def forward(
        self, ids: Int[Tensor, "batch position"], cache: RingCache, masks: MaskTensors | None, *, last_only: bool
    ) -> Float[Tensor, "batch position vocab"]:
        """Return logits, reading on from the cache and growing it; without masks attention is causal and windowed.

        Masks have a column for each token that `RingCache.extend` returns.
        """
        read, new = cache.read_tokens, ids.shape[1]
        cache.make_room(len(ids), read + new, self.weights.dtype)
        if masks is None and new > 1:
            masks = causal_mask_tensors(self.size, new, read)
        x = self._hidden(ids, torch.arange(read, read + new), masks, cache.step if masks is None else cache.extend)
        cache.read_tokens = read + new
        return self._head(x[:, -1:] if last_only else x)

    def _hidden(
        self,
        ids: Int[Tensor, "batch position"],
        positions: Int[Tensor, " position"],
        masks: MaskTensors | None,
        keep: Keep,
    ) -> Float[Tensor, "batch position hidden"]:
        """Run all layers; `keep` writes a layer's new keys and values and returns those that its mask is about."""
        batch, new = ids.shape
        rotations = {kind: self._rotation(kind, positions) for kind in self.frequencies}
        x = (self.weights.rows(ids) * self.embedding_scale).flatten(0, 1)  # row hidden
        for index, (weights, kind) in enumerate(zip(self.weights.layers, self.size.layer_types, strict=True)):
            before, after, before_mlp, after_mlp = weights.norms
            joined = weights.query_key_value(_norm(x, before)).view(batch, new, -1, self.size.head_dim)
            queries, keys, values = self._turned(joined.transpose(1, 2), weights.query_key_norm, rotations[kind])
            keys, values = keep(index, keys, values)
            mixed = self._mixed(queries, keys, values, None if masks is None else masks[kind])
            x = x + _norm(weights.output(mixed), after)
            gate, up = weights.gate_up(_norm(x, before_mlp)).chunk(2, dim=1)
            x = x + _norm(weights.down(nn.functional.gelu(gate, approximate="tanh") * up), after_mlp)
        return x.view(batch, new, -1)

    def _head(self, x: Float[Tensor, "batch position hidden"]) -> Float[Tensor, "batch position vocab"]:
        return self.weights.head(_norm(x.flatten(0, 1), self.weights.norm)).view(*x.shape[:2], -1)

    def _turned(
        self,
        joined: Float[Tensor, "batch head position width"],
        norm: Float[Tensor, "head 1 width"],
        rotation: Rotation,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Split queries, keys and values, which lie in this order; norm and rotate the first two."""
        query_count, key_count = self.size.num_attention_heads, self.size.num_key_value_heads
        cosine, sine = rotation
        plain = _norm(joined[:, : query_count + key_count], norm)
        turned = torch.addcmul(plain * cosine, plain.roll(self.size.head_dim // 2, -1), sine).to(self.weights.dtype)
        values = joined[:, query_count + key_count :].to(self.weights.dtype)
        return turned[:, :query_count], turned[:, query_count:], values

    def _mixed(
        self, queries: Kept, keys: Kept, values: Kept, mask: Bool[Tensor, "position token"] | None
    ) -> Float[Tensor, "row out"]:
        """Return what the queries gather from the values.

        Heads that share keys are laid behind each other as further positions, which spares copies of the keys.
        """
        batch, count, new, width = queries.shape
        key_count = keys.shape[1]
        mixed = nn.functional.scaled_dot_product_attention(
            queries.reshape(batch, key_count, -1, width),
            keys,
            values,
            attn_mask=None if mask is None else mask.repeat(count // key_count, 1),
            scale=self.scale,
        )
        return mixed.reshape(batch, count, new, width).transpose(1, 2).reshape(batch * new, -1).float()

    def _rotation(self, kind: str, positions: Int[Tensor, " position"]) -> Rotation:
        angles = positions[:, None] * self.frequencies[kind]
        cosine, sine = angles.cos(), angles.sin()
        return torch.cat((cosine, cosine), dim=1), torch.cat((-sine, sine), dim=1)


def _norm(x: Float[Tensor, "*row width"], weight: Float[Tensor, " width"]) -> Float[Tensor, "*row width"]:
    """Return x over its root mean square, times a weight; torch's own function takes three times as long on one row."""
    squares = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
    normed: Tensor = x * (squares / x.shape[-1] + _EPSILON).rsqrt_() * weight
    return normed


def causal_mask_tensors(size: Size, new: int, read: int) -> dict[str, Bool[Tensor, "position token"]]:
    """Return Gemma 3's own masks over the tokens that each kind of layer hands out for several positions."""
    query = torch.arange(read, read + new)[:, None]
    full = torch.arange(read + new)[None, :] <= query
    token = torch.arange(read - min(read, size.sliding_window - 1), read + new)[None, :]
    return {
        "full_attention": full,
        "sliding_attention": (token <= query) & (token > query - size.sliding_window),
    }
