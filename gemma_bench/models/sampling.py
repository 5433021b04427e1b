"""How the next token is chosen from logits: in numpy, so that equal logits give equal tokens in every library."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float

from gemma_bench.core.errors import BadInputError

Choice = Callable[[Float[np.ndarray, " vocab"]], int]
"""Takes one position's logits and returns a token id."""


class Sampler(Protocol):
    """A way to choose tokens."""

    def start(self) -> Choice:
        """Begin a sequence of choices; two sequences begun alike choose alike."""
        ...


@dataclass(frozen=True)
class Greedy:
    """Always the most likely token; of equals the one with the lowest id."""

    def start(self) -> Choice:
        """Begin a sequence of choices."""
        return lambda logits: int(np.argmax(logits))


@dataclass(frozen=True)
class Sampled:
    """Draw from softmax(logits / temperature), cut to the smallest set of tokens that holds `top_p` of it.

    Source of the cut: nucleus sampling, Holtzman et al., arXiv 1904.09751, eq. 2.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values without a meaning."""
        if not 0 < self.temperature < float("inf"):
            raise BadInputError(f"temperature must be above 0, got {self.temperature:g} (0 means greedy)")
        if self.seed < 0:
            raise BadInputError(f"seed must be at least 0, got {self.seed}")
        if not 0 < self.top_p <= 1:
            raise BadInputError(f"top_p must be above 0 and at most 1, got {self.top_p:g}")

    def start(self) -> Choice:
        """Begin a sequence of choices from this seed."""
        random = np.random.default_rng(self.seed)

        def choose(logits: Float[np.ndarray, " vocab"]) -> int:
            tokens, probabilities = self.nucleus(logits)
            drawn = int(np.searchsorted(np.cumsum(probabilities), random.random(), side="right"))
            return int(tokens[min(drawn, len(tokens) - 1)])

        return choose

    def nucleus(self, logits: Float[np.ndarray, " vocab"]) -> tuple[np.ndarray, Float[np.ndarray, " kept"]]:
        """Return the tokens that may be drawn, the likeliest first, and their probabilities, which sum to 1."""
        scaled = logits.astype(np.float64) / self.temperature
        weights = np.exp(scaled - scaled.max())
        order = np.argsort(-weights, kind="stable")
        sorted_probabilities = weights[order] / weights.sum()
        before = np.cumsum(sorted_probabilities) - sorted_probabilities
        kept = before < self.top_p if self.top_p < 1 else np.ones_like(order, dtype=bool)
        probabilities = sorted_probabilities[kept]
        return order[kept], probabilities / probabilities.sum()
