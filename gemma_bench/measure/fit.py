"""Does a model with its context fit, and if not, which knob makes it fit: fewer bits, or a shorter context."""

from dataclasses import dataclass

from gemma_bench.core.errors import BadInputError
from gemma_bench.measure.peak import Load, predicted_peak
from gemma_bench.models.catalog import Size

BITS = (16, 8, 6, 5, 4, 3, 2)
"""Precisions that MLX has, from whole 16-bit weights down."""

GROUP_SIZE = 64
_VALUE_BYTES = 2
_WHOLE = 16


@dataclass(frozen=True)
class Need:
    """What a model takes in memory: weights, keys and values of the whole context, and what a prefill has in flight."""

    weights_bytes: int
    cache_bytes: int
    activations_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.weights_bytes + self.cache_bytes + self.activations_bytes


def need(size: Size, context_tokens: int, bits: int, batch_size: int = 1) -> Need:
    """Compute what a context takes at so many bits a weight (groups of 64), with keys and values in 16 bits."""
    check(size, context_tokens, bits)
    weights = size.weight_bytes(bits) if bits == _WHOLE else size.weight_bytes(bits, GROUP_SIZE)
    cache = size.kv_cache_bytes(context_tokens, _VALUE_BYTES, batch_size=batch_size)
    load = Load(size, weights, _VALUE_BYTES, context_tokens, 1, batch_size)
    return Need(weights, cache, max(0, predicted_peak("torch", load).bytes - weights - cache))


def check(size: Size, context_tokens: int, bits: int) -> None:
    """Refuse a context that the model does not have and bits that MLX does not have."""
    longest = size.max_position_embeddings
    if not 1 <= context_tokens <= longest:
        raise BadInputError(f"context must be between 1 and {longest} tokens for {size.name}, got {context_tokens}")
    check_bits(bits)


def check_bits(bits: int) -> None:
    """Refuse bits that MLX does not have."""
    if bits not in BITS:
        raise BadInputError(f"bits must be one of {', '.join(map(str, sorted(BITS)))}, got {bits}")


def most_bits(size: Size, context_tokens: int, limit_bytes: float, below: int = _WHOLE) -> int | None:
    """Return the most bits, `below` at most, at which a context fits, or `None` where none does."""
    fitting = (bits for bits in BITS if bits <= below and need(size, context_tokens, bits).total_bytes <= limit_bytes)
    return next(fitting, None)


def longest_context(size: Size, bits: int, limit_bytes: float) -> int | None:
    """Return the longest context that fits at so many bits, or `None` where not even one token does."""
    if need(size, 1, bits).total_bytes > limit_bytes:
        return None
    low, high = 1, size.max_position_embeddings
    while low < high:
        middle = (low + high + 1) // 2
        if need(size, middle, bits).total_bytes <= limit_bytes:
            low = middle
        else:
            high = middle - 1
    return low
