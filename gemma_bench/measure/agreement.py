"""How far two implementations of one model are apart."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from gemma_bench.measure.likelihood import log_probabilities
from gemma_bench.models.backend import Backend


@dataclass(frozen=True)
class Agreement:
    """Two backends on the same tokens, position by position."""

    kl_nats: Float[np.ndarray, " position"]
    same_choice: Float[np.ndarray, " position"]
    largest_difference_nats: float


def agreement(reference: Backend, other: Backend, tokens: Sequence[int]) -> Agreement:
    """Compare next-token distributions: KL(reference ‖ other) in nats, equal greedy choices, log-probabilities."""
    ours, theirs = (np.concatenate(list(log_probabilities(side, tokens))) for side in (reference, other))
    kl = (np.exp(ours) * (ours - theirs)).sum(axis=-1)
    same = ours.argmax(axis=-1) == theirs.argmax(axis=-1)
    return Agreement(np.maximum(kl, 0), same.astype(float), float(np.abs(ours - theirs).max()))
