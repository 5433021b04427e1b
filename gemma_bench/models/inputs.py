"""Checks that all backends share: devices, tokens, room in the context, masks cut to the keys that a layer has."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

from gemma_bench.core.errors import BadInputError, UnavailableError, unknown
from gemma_bench.models.backend import Masks
from gemma_bench.models.catalog import Size


def device_here(device: str, known: Sequence[str], available: Sequence[str]) -> str:
    """Refuse a device that a library does not know or this machine does not have."""
    if device not in known:
        raise unknown("device", device, known)
    if device not in available:
        raise UnavailableError(device, f"device {device!r} is not available here, available: {', '.join(available)}")
    return device


def token_array(tokens: Sequence[Sequence[int]], size: Size, read_tokens: int) -> Int[np.ndarray, "batch position"]:
    """Return token ids as an array.

    Raises `BadInputError` where a row is empty or of another length, an id is outside the vocabulary, or the context,
    of which `read_tokens` are used already, has no room.
    """
    lengths = sorted({len(row) for row in tokens})
    if len(lengths) != 1 or lengths[0] == 0:
        raise BadInputError(f"tokens must be rows of one length of at least 1, got lengths {lengths}")
    array = np.asarray(tokens, dtype=np.int64)
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= size.vocab_size:
        raise BadInputError(f"token ids must be between 0 and {size.vocab_size - 1}, got {low if low < 0 else high}")
    total = read_tokens + lengths[0]
    if total > size.max_position_embeddings:
        raise BadInputError(f"{total} tokens are too many, the model's context is {size.max_position_embeddings}")
    return array


def check_masks(masks: Masks, query_tokens: int, read_tokens: int) -> None:
    """Refuse masks that are not [query, every token read so far and now]."""
    expected = (query_tokens, read_tokens + query_tokens)
    for name, mask in (("full_attention", masks.full_attention), ("sliding_attention", masks.sliding_attention)):
        if mask.shape != expected or mask.dtype != np.bool_:
            raise BadInputError(f"mask {name} must be bool {list(expected)}, got {mask.dtype} {list(mask.shape)}")


def cut_to_kept(mask: Bool[np.ndarray, "query key"], kept_keys: int) -> Bool[np.ndarray, "query kept"]:
    """Cut a mask to the newest keys, which are all that a local layer has; refuse one that looks at the others."""
    dropped = mask.shape[1] - kept_keys
    if mask[:, :dropped].any():
        raise BadInputError(
            f"mask sliding_attention looks at one of the first {dropped} tokens, which the cache has dropped"
        )
    return mask[:, dropped:]


def causal_masks(size: Size, query_tokens: int, read_tokens: int = 0) -> Masks:
    """Return the masks that Gemma 3 uses by itself: causal, and causal within the window."""
    query = np.arange(read_tokens, read_tokens + query_tokens)[:, None]
    key = np.arange(read_tokens + query_tokens)[None, :]
    causal = key <= query
    return Masks(full_attention=causal, sliding_attention=causal & (key > query - size.sliding_window))
