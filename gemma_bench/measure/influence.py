"""Who influences whom: change one token and see which outputs move."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from gemma_bench.models.backend import Backend


def influence(backend: Backend, tokens: Sequence[int], position: int) -> Float[np.ndarray, " position"]:
    """Return, for every position, the largest change of any logit when the token at `position` is another one."""
    changed = list(tokens)
    changed[position] = (changed[position] + 1) % backend.size.vocab_size
    before, after = (backend.numpy(backend.logits([row]))[0] for row in (list(tokens), changed))
    largest: np.ndarray = np.abs(after - before).max(axis=-1)
    return largest
