"""Which masked tokens of a block one pass fixes; in numpy, so that equal figures give equal choices in every library.

Each rule sees the entropy (nats) and the confidence (largest probability) of every token that is still masked, from
left to right, and names at least one of them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float, Int

from gemma_bench.core.errors import BadInputError, unknown

Figures = Float[np.ndarray, " masked"]
Chosen = Int[np.ndarray, " fixed"]


class BlockSampler(Protocol):
    """A rule that says which masked tokens to fix."""

    def fix(self, entropies_nats: Figures, confidences: Figures) -> Chosen:
        """Return the indices of the tokens to fix now, at least one, in ascending order."""
        ...


@dataclass(frozen=True)
class EntropyBounded:
    """Fix the longest prefix, sorted by entropy, with ΣH − max H ≤ gamma: 0 fixes one token, infinity all.

    Source: EB-Sampler, arXiv 2505.24857, eq. 2, with the entropy as error proxy (Set Block Decoding, arXiv 2509.04185,
    eq. 8): the sum bounds what the tokens, drawn apart from each other, can lose against drawing them together.
    """

    gamma: float = 0.1

    def __post_init__(self) -> None:
        """Refuse a bound without a meaning."""
        _check_gamma(self.gamma)

    def fix(self, entropies_nats: Figures, confidences: Figures) -> Chosen:  # noqa: ARG002 - see BlockSampler
        """Return the indices of the tokens to fix now."""
        order = np.argsort(entropies_nats, kind="stable")
        return np.sort(order[: _bounded_count(entropies_nats[order], self.gamma)])


@dataclass(frozen=True)
class LeftPrefix:
    """Fix the longest run from the left with ΣH − max H ≤ gamma: no token before those to its left (a rule of ours)."""

    gamma: float = 0.1

    def __post_init__(self) -> None:
        """Refuse a bound without a meaning."""
        _check_gamma(self.gamma)

    def fix(self, entropies_nats: Figures, confidences: Figures) -> Chosen:  # noqa: ARG002 - see BlockSampler
        """Return the indices of the tokens to fix now."""
        return np.arange(_bounded_count(entropies_nats, self.gamma))


@dataclass(frozen=True)
class Factor:
    """Fix the n surest tokens, for the largest n with (n + 1)·(1 − c_n) < factor, c_n being the n-th confidence.

    Source: Fast-dLLM, arXiv 2505.22618. Set Block Decoding's appendix B.1 prints (n + 1)·c_n instead, which fixes the
    fewer tokens the surer they are.
    """

    factor: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a factor without a meaning."""
        if not self.factor > 0:
            raise BadInputError(f"factor must be above 0, got {self.factor:g}")

    def fix(self, entropies_nats: Figures, confidences: Figures) -> Chosen:  # noqa: ARG002 - see BlockSampler
        """Return the indices of the tokens to fix now."""
        order = np.argsort(-confidences, kind="stable")
        allowed = factor_cost(confidences[order]) < self.factor
        return np.sort(order[: max(1, int(allowed.argmin() if not allowed.all() else allowed.size))])


@dataclass(frozen=True)
class FixedCount:
    """Fix the `count` tokens of lowest entropy, whatever it is."""

    count: int = 1

    def __post_init__(self) -> None:
        """Refuse to fix nothing."""
        if self.count < 1:
            raise BadInputError(f"count must be at least 1 token, got {self.count}")

    def fix(self, entropies_nats: Figures, confidences: Figures) -> Chosen:  # noqa: ARG002 - see BlockSampler
        """Return the indices of the tokens to fix now."""
        return np.sort(np.argsort(entropies_nats, kind="stable")[: self.count])


def block_sampler(name: str, amount: float | None = None) -> BlockSampler:
    """Return the sampler of a name, `entropy`, `left`, `factor` or `fixed`, with its gamma, factor or count.

    Without an amount it is the sampler's own.
    """
    samplers: dict[str, Callable[..., BlockSampler]] = {
        "entropy": EntropyBounded,
        "left": LeftPrefix,
        "factor": Factor,
        "fixed": FixedCount,
    }
    if name not in samplers:
        raise unknown("sampler", name, samplers)
    if amount is None:
        return samplers[name]()
    if name == "fixed" and not float(amount).is_integer():
        raise BadInputError(f"count must be a whole number of tokens, got {amount:g}")
    return samplers[name](int(amount) if name == "fixed" else amount)


def factor_cost(sorted_confidences: Figures) -> Figures:
    """Return (n + 1)·(1 − c_n) for n = 1, 2, …, the surest token first."""
    cost: Figures = (np.arange(len(sorted_confidences)) + 2) * (1 - sorted_confidences)
    return cost


def _bounded_count(entropies_nats: Figures, gamma: float) -> int:
    """Return the length of the longest prefix with ΣH − max H ≤ gamma; that difference never falls along a prefix.

    A further token adds the smaller of itself and the largest so far: no sums are taken from each other.
    """
    largest_before = np.maximum.accumulate(entropies_nats)[:-1]
    excess = np.cumsum(np.minimum(entropies_nats[1:], largest_before), dtype=np.float64)
    return 1 + int(np.count_nonzero(excess <= gamma))


def _check_gamma(gamma: float) -> None:
    if math.isnan(gamma) or gamma < 0:
        raise BadInputError(f"gamma must be at least 0 nats, got {gamma:g}")
