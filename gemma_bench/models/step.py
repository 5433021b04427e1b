"""One token through all layers in one call of C: at batch 1 an operation's launch costs as much as its arithmetic."""

import ctypes
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gemma_bench.models.decoder import Decoder, Projection
from gemma_bench.models.packed import Stacked
from gemma_bench.models.product import KERNELS, CodedLinear, Matrix
from gemma_bench.models.ring_cache import RingCache

_PARTS, _WIDTH, _SHARING = 3, 512, 64


def _fields(*names: str, kind: type) -> list[tuple[str, type]]:
    return [(name, kind) for name in names]


class _Projection(ctypes.Structure):
    _fields_ = (("count", ctypes.c_int64), ("parts", Matrix * _PARTS))


class _Layer(ctypes.Structure):
    _fields_ = (
        *_fields("query_key_value", "output", "gate_up", "down", kind=_Projection),
        *_fields("before", "after", "before_mlp", "after_mlp", "query_key_norm", "frequencies", kind=ctypes.c_void_p),
        ("window", ctypes.c_int64),
    )


class _Model(ctypes.Structure):
    _fields_ = (
        *_fields("hidden", "inner", "width", "query_count", "key_count", "layer_count", kind=ctypes.c_int64),
        ("scale", ctypes.c_float),
        *_fields("layers", "norm", kind=ctypes.c_void_p),
        ("head", _Projection),
    )


class _Run(ctypes.Structure):
    _fields_ = (
        *_fields("threads", "position", kind=ctypes.c_int64),
        *_fields("x", "normed", "joined", "mixed", "product_room", "scores", kind=ctypes.c_void_p),
    )


class Step:
    """Gemma 3 over a decoder's weights, for one token at a time."""

    def __init__(self, decoder: Decoder) -> None:
        """Write down where everything lies; `can_step` says for which decoders."""
        size, weights = decoder.size, decoder.weights
        self.decoder, self.kernel = decoder, KERNELS.required().step
        self.layers = (_Layer * size.num_hidden_layers)(
            *(_layer(decoder, index) for index in range(size.num_hidden_layers))
        )
        counts = (size.hidden_size, size.intermediate_size, size.head_dim)
        heads = (size.num_attention_heads, size.num_key_value_heads, size.num_hidden_layers)
        places = (ctypes.addressof(self.layers), weights.norm.data_ptr())
        self.model = _Model(*counts, *heads, decoder.scale, *places, _projection(weights.head))

    def __call__(self, token: Int[Tensor, "1 1"], cache: RingCache) -> Float[Tensor, "1 1 vocab"]:
        """Return the logits behind a token, reading on from the cache and growing it."""
        size, decoder, read = self.decoder.size, self.decoder, cache.read_tokens
        cache.make_room(1, read + 1, decoder.weights.dtype)
        x = decoder.weights.rows(token).flatten() * decoder.embedding_scale
        head_count = size.num_attention_heads + 2 * size.num_key_value_heads
        widest = max(head_count * size.head_dim, 2 * size.intermediate_size, size.hidden_size)
        rooms = (size.hidden_size, widest, widest, 2 * widest, size.num_attention_heads * (read + 1))
        kept = [x, *map(torch.empty, rooms)]
        now = _Run(torch.get_num_threads(), read, *(part.data_ptr() for part in kept))
        places = (ctypes.c_void_p * len(cache.rooms))(*(room.data_ptr() for room in cache.rooms))
        slots = (ctypes.c_int64 * len(cache.rooms))(*(room.shape[3] for room in cache.rooms))
        logits = torch.empty(1, 1, size.vocab_size)
        self.kernel(ctypes.byref(self.model), ctypes.byref(now), places, slots, ctypes.c_void_p(logits.data_ptr()))
        cache.read_tokens = read + 1
        return logits


def can_step(decoder: Decoder) -> bool:
    """Whether all of a decoder's products are our own, and its heads no wider than the kernel takes."""
    size, weights = decoder.size, decoder.weights
    products = [weights.head]
    for layer in weights.layers:
        products += (layer.query_key_value, layer.output, layer.gate_up, layer.down)
    fits = size.head_dim <= _WIDTH and size.num_attention_heads // size.num_key_value_heads <= _SHARING
    return fits and all(map(_is_coded, products))


def _is_coded(product: Projection) -> bool:
    return isinstance(product, Stacked) and all(isinstance(part, CodedLinear) for part in product.parts)


def _projection(product: Projection) -> _Projection:
    parts = [cast("CodedLinear", part).matrix for part in cast("Stacked", product).parts]
    return _Projection(len(parts), (Matrix * _PARTS)(*parts))


def _layer(decoder: Decoder, index: int) -> _Layer:
    size, weights = decoder.size, decoder.weights.layers[index]
    kind = size.layer_types[index]
    products = (weights.query_key_value, weights.output, weights.gate_up, weights.down)
    vectors = (*weights.norms, weights.query_key_norm, decoder.frequencies[kind])
    window = size.sliding_window if kind == "sliding_attention" else 0
    return _Layer(*map(_projection, products), *(vector.data_ptr() for vector in vectors), window)
