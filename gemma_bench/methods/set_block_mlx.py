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
        self.rows: mx.array | None = None

    def begin(self, finished: int, block: int, rows: Int[np.ndarray, " row"]) -> Mapping[str, mx.array]:
        """Return the masks of a pass of some rows or all, and set the positions from which its rotations follow."""
        masks = BlockMasks.of_pass(self, finished, block, self.window)
        self.first_local_slot = masks.first_local_slot
        self.rows = mx.array(rows) if len(rows) < len(self.padding) else None
        ragged = self.padding.any()
        self.offset = mx.array(self.kept_tokens - self.padding[rows]) if ragged else self.kept_tokens
        own = rows if ragged else slice(None)
        return {
            "full_attention": mx.array(masks.full_attention[own]),
            "sliding_attention": mx.array(masks.sliding_attention[own]),
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
        """Write keys and values behind what is kept and return all that this pass may see.

        A pass of some rows only keeps nothing, so that there is nothing to write.
        """
        first, start = self.cache.first_local_slot if self.is_local else 0, self.cache.kept_tokens
        rows = self.cache.rows
        if rows is not None:
            old_keys, old_values = self.keys[rows, :, first:start], self.values[rows, :, first:start]
            return mx.concatenate([old_keys, keys], axis=2), mx.concatenate([old_values, values], axis=2)
        if self.keys is None:
            shape = (*keys.shape[:2], self.cache.room_tokens, keys.shape[3])
            self.keys, self.values = mx.zeros(shape, keys.dtype), mx.zeros(shape, values.dtype)
        stop = start + keys.shape[2]
        self.keys[:, :, start:stop] = keys
        self.values[:, :, start:stop] = values
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
        """Read finished tokens and a block behind them, as torch's passes do with rows that have nothing masked."""
        rows = np.flatnonzero(is_masked.any(axis=1))
        if finished.shape[1] or not len(rows):
            rows = np.arange(len(is_masked))
        where, offsets = np.nonzero(is_masked[rows])
        with mx.stream(self.backend.stream):
            hidden = self.hidden(cache, finished, block, rows)
            picked = hidden[mx.array(where), mx.array(finished.shape[1] + offsets)]
            return self._readout(self._head(picked))

    def logits(self, cache: MlxBlockCache, finished: Ids, block: Ids) -> Float[np.ndarray, "batch position vocab"]:
        """Return the logits of all tokens of a pass."""
        with mx.stream(self.backend.stream):
            return np.array(self._head(self.hidden(cache, finished, block, np.arange(len(block)))))

    def _head(self, hidden: mx.array) -> mx.array:
        logits: mx.array = self.model.model.embed_tokens.as_linear(hidden).astype(mx.float32)
        return logits

    def kept(self, cache: MlxBlockCache) -> list[Float[np.ndarray, "2 batch head token width"]]:
        """Return the keys and values that a cache keeps."""
        return [
            np.stack([self.backend.numpy(array)[:, :, : cache.kept_tokens] for array in (layer.keys, layer.values)])
            for layer in cache.layers
        ]

    def hidden(self, cache: MlxBlockCache, finished: Ids, block: Ids, rows: Int[np.ndarray, " row"]) -> mx.array:
        """Return the last hidden states of finished tokens and block, of some rows if they have no finished tokens.

        The cache keeps the finished ones.
        """
        ids = np.concatenate((finished, block), axis=1)[rows]
        masks = cache.begin(finished.shape[1], block.shape[1], rows)
        hidden: mx.array = self.backend.masked_hidden(mx.array(ids.astype(np.int32)), masks, cache.layers)
        cache.kept_tokens += finished.shape[1]
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
