"""How likely a model finds a text: per token, and as perplexity."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float
from scipy.special import log_softmax

from gemma_bench.core.errors import BadInputError
from gemma_bench.models.backend import Backend

_CHUNK_TOKENS = 256
"""Logits of a whole text would not fit: 1,024 tokens of a 262,144-word vocabulary are 1.07 GB in float32."""


def log_probabilities(backend: Backend, tokens: Sequence[int]) -> Iterator[Float[np.ndarray, "position vocab"]]:
    """Yield next-token log-probabilities (nats) in chunks of positions, reading the text once through a cache."""
    cache = backend.new_cache()
    for start in range(0, len(tokens), _CHUNK_TOKENS):
        logits = backend.logits([list(tokens[start : start + _CHUNK_TOKENS])], cache=cache)
        yield log_softmax(backend.numpy(logits)[0], axis=-1)


def token_nats(backend: Backend, tokens: Sequence[int]) -> Float[np.ndarray, " predicted"]:
    """Return −log p of every token but the first, given those before it."""
    if len(tokens) < 2:  # noqa: PLR2004
        raise BadInputError(f"a likelihood needs at least 2 tokens, got {len(tokens)}")
    targets, parts = np.asarray(tokens[1:]), []
    for chunk in log_probabilities(backend, tokens[:-1]):
        wanted, targets = targets[: len(chunk)], targets[len(chunk) :]
        parts.append(-chunk[np.arange(len(chunk)), wanted])
    return np.concatenate(parts)


def perplexity(backend: Backend, tokens: Sequence[int]) -> float:
    """Return exp of the mean −log p per predicted token."""
    return float(np.exp(token_nats(backend, tokens).mean()))
