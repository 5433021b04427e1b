"""What a forward pass of set block decoding is, in any library: finished tokens, a block behind them, who sees whom.

Legend: masked counts the masked tokens of all rows that a pass is asked about, row by row, left to right; slot counts
the places of a cache, which a row fills from its padding on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from gemma_bench.core.errors import BadInputError
from gemma_bench.models.backend import Backend

Ids = Int[np.ndarray, "batch position"]


@dataclass(frozen=True)
class Readout:
    """What a pass says about the masked tokens: entropies and largest probabilities, and logits on demand."""

    entropies_nats: Float[np.ndarray, " masked"]
    confidences: Float[np.ndarray, " masked"]
    logits: Callable[[Int[np.ndarray, " chosen"]], Float[np.ndarray, "chosen vocab"]]


@runtime_checkable
class BlockCache(Protocol):
    """Keys and values of the finished tokens; the rows of a batch end at the same place and may begin with padding."""

    model: Any
    padding: Int[np.ndarray, " batch"]
    kept_tokens: int
    room_tokens: int


@dataclass(frozen=True)
class BlockMasks:
    """Who sees whom in a pass, for both kinds of layers; a local layer hands out the slots from `first_local_slot` on.

    A finished token sees what is before it. A token of the block sees all finished ones and the whole block. Local
    layers see, of these, what is nearer than the window. Padding in front sees itself alone, so that it stays finite.
    """

    full_attention: Bool[np.ndarray, "batch 1 query slot"]
    sliding_attention: Bool[np.ndarray, "batch 1 query local"]
    first_local_slot: int

    @classmethod
    def of_pass(cls, cache: BlockCache, finished: int, block: int, window: int) -> Self:
        """Build the masks of so many finished tokens and a block behind what a cache keeps."""
        kept, end = cache.kept_tokens, cache.kept_tokens + finished + block
        query, slot = np.arange(kept, end)[:, None], np.arange(end)[None, :]
        last_seen = np.where(query < kept + finished, query, end - 1)
        padding = (cache.padding if cache.padding.any() else cache.padding[:1])[:, None, None, None]
        full = (slot <= last_seen) & ((slot >= padding) | (slot == query))
        first = max(0, kept - window + 1)
        return cls(full, (full & (np.abs(slot - query) < window))[..., first:], first)


class Passes(Protocol):
    """The forward passes of one model in one library."""

    model: Any
    mask_token: int
    vocabulary_size: int
    context_tokens: int

    def new_cache(self, padding: Int[np.ndarray, " batch"], room_tokens: int) -> Any:
        """Return an empty cache for rows that begin with so much padding, with room for all that they will hold."""
        ...

    def read(self, cache: Any, finished: Ids, block: Ids, is_masked: Bool[np.ndarray, "batch position"]) -> Readout:
        """Read finished tokens, which the cache keeps, and a block behind them, which it does not.

        Finished tokens see what is before them; the block sees all of them and all of itself. `is_masked` says about
        which tokens of the block to tell.
        """
        ...

    def logits(self, cache: Any, finished: Ids, block: Ids) -> Float[np.ndarray, "batch position vocab"]:
        """Read as `read` does and return the logits of all tokens, in float32."""
        ...

    def kept(self, cache: Any) -> list[Float[np.ndarray, "2 batch head token width"]]:
        """Return the keys and values that a cache keeps, layer by layer, in float32."""
        ...


def passes_of(backend: Backend) -> Passes:
    """Return the passes of a loaded model.

    Raises `BadInputError` for a model that was not trained with a mask token, or a quantised one in torch.
    """
    folder = backend.folder
    if folder.mask_token is None:
        raise BadInputError(
            f"{folder.model_id} has no mask token, so it cannot fill in a block: train one with "
            f"`gemma-bench train sbd --model {folder.path} --data FOLDER --output RUN` and decode with RUN/model"
        )
    if backend.name == "mlx":
        from gemma_bench.methods.set_block_mlx import MlxPasses

        return MlxPasses(backend, folder.mask_token)
    if folder.bits is not None:
        raise BadInputError(f"torch decodes set blocks in 16 or 32 bits, got {folder.precision}: take backend mlx")
    from gemma_bench.methods.set_block_torch import TorchPasses

    return TorchPasses(getattr(backend, "model"), folder.mask_token)  # noqa: B009 - no part of the protocol
