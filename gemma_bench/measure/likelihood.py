"""How likely a model finds a text: per token, per sequence of a batch, and as perplexity."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy.special import log_softmax

from gemma_bench.core.errors import BadInputError
from gemma_bench.models.backend import Backend

Sequences = Int[np.ndarray, "sequence position"]

TokenNats = Callable[[Sequences], Float[np.ndarray, "sequence predicted"]]
"""Returns −log p (nats) of the last tokens of each sequence, given those before.

All of them where a start token is read first; else all but the first, which is given.
"""

LogProbabilities = Callable[[Sequences], Float[np.ndarray, "sequence position vocab"]]
"""Returns the log-probabilities (nats) of what follows each token."""

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


def from_log_probabilities(function: LogProbabilities) -> TokenNats:
    """Score with any function from tokens to next-token log-probabilities; the first token is given."""

    def score(tokens: Sequences) -> Float[np.ndarray, "sequence predicted"]:
        if tokens.shape[1] < 2:  # noqa: PLR2004
            raise BadInputError(
                f"sequences must have at least 2 tokens where the first is given, got {tokens.shape[1]}"
            )
        found = function(tokens)[:, :-1]
        picked: np.ndarray = np.take_along_axis(found, tokens[:, 1:, None], axis=-1)
        return -picked[..., 0].astype(np.float64)

    return score


def of_backend(backend: Backend) -> TokenNats:
    """Score with a loaded Gemma 3, in any library and precision; every token counts, `<bos>` is read before the first.

    Short sequences share a pass, long ones are read in chunks, so that logits never take more than 256 tokens' room.
    """
    start = backend.tokenizer.bos_token_id

    def score(tokens: Sequences) -> Float[np.ndarray, "sequence position"]:
        read = np.concatenate([np.full((len(tokens), 1), start, tokens.dtype), tokens], axis=1)
        width = read.shape[1]
        if width > _CHUNK_TOKENS:
            return np.stack([token_nats(backend, row.tolist()) for row in read])
        rows = _CHUNK_TOKENS // width
        next_token = from_log_probabilities(
            lambda part: log_softmax(backend.numpy(backend.logits(part.tolist())), axis=-1)
        )
        return np.concatenate([next_token(read[first : first + rows]) for first in range(0, len(read), rows)])

    return score
