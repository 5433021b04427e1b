"""The one protocol that Gemma 3 in torch and in MLX both serve; everything above this shelf is written against it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool, Float

from gemma_bench.core.records import Subject
from gemma_bench.models.catalog import Size
from gemma_bench.models.folder import ModelFolder

Array = Any
"""An array of the backend's own library; `Backend.numpy` brings it over."""

Cache = Any
"""Keys and values of the tokens read so far, as the backend's own library keeps them."""

Tokens = Sequence[Sequence[int]]
"""Token ids, one equally long row per sequence of the batch."""


@dataclass(frozen=True)
class Masks:
    """Who may look at whom, for both kinds of layers: `True` lets a query (row) see a key (column).

    Keys are all tokens of the context: those read into the cache before, then the queries themselves. A local layer may
    have dropped the oldest ones, which its mask must then leave out.
    """

    full_attention: Bool[np.ndarray, "query key"]
    sliding_attention: Bool[np.ndarray, "query key"]


class Backend(Protocol):
    """Gemma 3 loaded in one tensor library."""

    name: str
    device: str
    precision: str
    size: Size
    folder: ModelFolder
    tokenizer: Any

    def logits(
        self, tokens: Tokens, *, masks: Masks | None = None, cache: Cache | None = None, last_only: bool = False
    ) -> Array:
        """Return logits `[batch, position, vocab]`; with a cache, read on from it and grow it.

        `last_only` computes the head for the last position alone. Without `masks` attention is causal and windowed.
        """
        ...

    def new_cache(self) -> Cache:
        """Return an empty cache."""
        ...

    def read_tokens(self, cache: Cache) -> int:
        """Return how many tokens a cache has read."""
        ...

    def cache_bytes(self, cache: Cache) -> int:
        """Return the bytes of the keys and values that a cache holds (not of the room it has reserved)."""
        ...

    def kept_tokens(self, context_tokens: int) -> int:
        """Return how many of `context_tokens` a local layer still holds after a step of one token."""
        ...

    def weight_bytes(self) -> int:
        """Return the bytes of all parameters, a tied head counted once."""
        ...

    def numpy(self, array: Array) -> Float[np.ndarray, "*shape"]:
        """Wait for an array and return it in float32."""
        ...

    def synchronize(self) -> None:
        """Wait until everything asked for so far is computed."""
        ...

    def peak_memory_bytes(self) -> int | None:
        """Return the allocator's peak since the last reset, or `None` where the device keeps no such figure."""
        ...

    def reset_peak_memory(self) -> None:
        """Start a new peak."""
        ...


def subject(backend: Backend, seed: int | None = None) -> Subject:
    """Say for a record what was measured."""
    folder = backend.folder
    return Subject(
        model_id=folder.model_id,
        weights_sha256=folder.sha256,
        weights_origin=folder.origin,
        dtype=backend.precision,
        seed=seed,
    )


def value_bytes(backend: Backend) -> int:
    """Return the bytes of one key, value or activation: quantised models compute in 16 bits."""
    return 4 if backend.precision == "float32" else 2
