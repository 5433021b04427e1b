"""The passes of set block decoding in MLX: mlx_lm's layers, unchanged, with masks and a cache of ours."""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx
import numpy as np
from jaxtyping import Bool, Float, Int

from gemma_bench.core.errors import BadInputError
from gemma_bench.methods.set_block_passes import BlockMasks, Ids, Readout

_MASKED_OUT = -3e38
"""Below every logit and finite, so that its share times itself is 0."""


class MlxBlockCache:
    """Keys and values in fixed places: a pass writes behind what is kept, and only its finished tokens stay."""

    def __init__(self, backend: Any, padding: Int[np.ndarray, " batch"], room_tokens: int) -> None:
        """Begin empty; a layer's room is made with its first keys, in their type."""
        self.model, self.padding, self.room_tokens, self.kept_tokens = backend.model, padding, room_tokens, 0
        self.window = backend.size.sliding_window
        self.layers = [MlxBlockLayer(self, kind == "sliding_attention") for kind in backend.size.layer_types]
        self.first_local_slot = 0
        self.offset: int | mx.array = 0
        self.keep(0)

    def keep(self, tokens: int) -> None:
        """Keep so many tokens of the pass that was read last; positions, from which rotations follow, move on."""
        self.kept_tokens += tokens
        ragged = self.padding.any()
        self.offset = mx.array(self.kept_tokens - self.padding) if ragged else self.kept_tokens

    def masks(self, finished: int, block: int) -> Mapping[str, mx.array]:
        """Return the masks of the pass to come."""
        masks = BlockMasks.of_pass(self, finished, block, self.window)
        self.first_local_slot = masks.first_local_slot
        return {
            "full_attention": mx.array(masks.full_attention),
            "sliding_attention": mx.array(masks.sliding_attention),
        }


class MlxBlockLayer:
    """One layer's keys and values, with the two things that mlx_lm's attention asks a cache for."""

    def __init__(self, cache: MlxBlockCache, is_local: bool) -> None:
        """Begin empty."""
        self.cache, self.is_local = cache, is_local
        self.keys: Any = None
        self.values: Any = None

    @property
    def offset(self) -> int | mx.array:
        """The position of the next token, of each row where they differ."""
        return self.cache.offset

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Write keys and values behind what is kept and return all that this pass may see."""
        if self.keys is None:
            shape = (*keys.shape[:2], self.cache.room_tokens, keys.shape[3])
            self.keys, self.values = mx.zeros(shape, keys.dtype), mx.zeros(shape, values.dtype)
        start = self.cache.kept_tokens
        stop = start + keys.shape[2]
        self.keys[:, :, start:stop] = keys
        self.values[:, :, start:stop] = values
        first = self.cache.first_local_slot if self.is_local else 0
        return self.keys[:, :, first:stop], self.values[:, :, first:stop]


class MlxPasses:
    """See `Passes`; takes a loaded `MlxBackend`, plain or quantised."""

    def __init__(self, backend: Any, mask_token: int) -> None:
        """Wrap a backend whose token `mask_token` stands for a hidden one."""
        self.backend, self.model, self.mask_token = backend, backend.model, mask_token
        self.vocabulary_size, self.context_tokens = backend.size.vocab_size, backend.size.max_position_embeddings
        if not 0 <= mask_token < self.vocabulary_size:
            raise BadInputError(f"mask token must be between 0 and {self.vocabulary_size - 1}, got {mask_token}")

    def new_cache(self, padding: Int[np.ndarray, " batch"], room_tokens: int) -> MlxBlockCache:
        """Return an empty cache."""
        return MlxBlockCache(self.backend, padding, room_tokens)

    def read(
        self, cache: MlxBlockCache, finished: Ids, block: Ids, is_masked: Bool[np.ndarray, "batch position"]
    ) -> Readout:
        """Read finished tokens and a block behind them."""
        rows, offsets = np.nonzero(is_masked)
        with mx.stream(self.backend.stream):
            hidden = self.hidden(cache, finished, block)
            picked = hidden[mx.array(rows), mx.array(finished.shape[1] + offsets)]
            return self._readout(self._head(picked))

    def logits(self, cache: MlxBlockCache, finished: Ids, block: Ids) -> Float[np.ndarray, "batch position vocab"]:
        """Return the logits of all tokens of a pass."""
        with mx.stream(self.backend.stream):
            return np.array(self._head(self.hidden(cache, finished, block)))

    def _head(self, hidden: mx.array) -> mx.array:
        logits: mx.array = self.model.model.embed_tokens.as_linear(hidden).astype(mx.float32)
        return logits

    def kept(self, cache: MlxBlockCache) -> list[Float[np.ndarray, "2 batch head token width"]]:
        """Return the keys and values that a cache keeps."""
        return [
            np.stack([self.backend.numpy(array)[:, :, : cache.kept_tokens] for array in (layer.keys, layer.values)])
            for layer in cache.layers
        ]

    def hidden(self, cache: MlxBlockCache, finished: Ids, block: Ids) -> mx.array:
        """Return the last hidden states of finished tokens and block; the cache keeps the finished ones."""
        ids = np.concatenate((finished, block), axis=1)
        masks = cache.masks(finished.shape[1], block.shape[1])
        hidden: mx.array = self.backend.masked_hidden(mx.array(ids.astype(np.int32)), masks, cache.layers)
        cache.keep(finished.shape[1])
        return hidden

    def _readout(self, logits: mx.array) -> Readout:
        """Turn logits into entropies in nats and confidences; the mask token itself is never to be written."""
        logits[:, self.mask_token] = _MASKED_OUT
        lower = logits - logits.max(axis=1, keepdims=True)
        weights = mx.exp(lower)
        total = weights.sum(axis=1)
        entropies = mx.log(total) - (weights * lower).sum(axis=1) / total
        mx.eval(entropies, total, logits)
        return Readout(
            entropies_nats=np.array(entropies).clip(min=0),
            confidences=1 / np.array(total),
            logits=lambda chosen: np.array(logits[mx.array(chosen)]),
        )
