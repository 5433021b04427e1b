"""What weights and caches cost in bytes, counted on the real thing."""

from math import prod

from gemma_bench.models.backend import Backend, value_bytes
from gemma_bench.models.folder import ModelFolder
from gemma_bench.models.headers import read_headers

_ITEM_BYTES = {"BF16": 2, "F16": 2, "F32": 4, "U32": 4}


def matrix_bits(folder: ModelFolder) -> dict[str, float]:
    """Return the bits that each matrix takes per weight, its scales and biases included."""
    headers = read_headers(folder.path)
    bits = {}
    for name, (rows, columns) in folder.size.matrix_shapes().items():
        stem = name.removesuffix("weight")
        parts = [headers[stem + part] for part in ("weight", "scales", "biases") if stem + part in headers]
        bits[name] = 8 * sum(prod(part.shape) * _ITEM_BYTES[part.dtype] for part in parts) / (rows * columns)
    return bits


def cache_differences(backend: Backend, context_tokens: int, kept_tokens: int) -> list[int]:
    """Return, after each of `context_tokens` steps of one token, the bytes by which the cache exceeds the formula.

    `kept_tokens` is the most that a local layer is said to hold.
    """
    cache, differences = backend.new_cache(), []
    for length in range(1, context_tokens + 1):
        backend.logits([[length % backend.size.vocab_size]], cache=cache, last_only=True)
        formula = backend.size.kv_cache_bytes(length, value_bytes(backend), kept_tokens=min(length, kept_tokens))
        differences.append(backend.cache_bytes(cache) - formula)
    return differences
