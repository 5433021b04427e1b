"""Tiny Gemma 3s and the strings they learn: there is only each string to learn, or a rule and noise around it."""

from dataclasses import dataclass
from math import log, log2

import numpy as np
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict

from gemma_bench.core.errors import BadInputError
from gemma_bench.measure.likelihood import Sequences
from gemma_bench.training.stack.shape import Shape, gemma3

_PARTNERS_SEED = 0


@dataclass(frozen=True)
class Strings:
    """Strings of a given symbol and `length` more: each brings its partner with chance `rule`, else any symbol follows.

    The partners are a fixed permutation. A rule of 0 gives uniform strings, a rule of 1 leaves nothing to chance.
    """

    symbols: int
    length: int
    rule: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what is no chance."""
        if not 0 <= self.rule <= 1:
            raise BadInputError(f"a rule must hold with a chance between 0 and 1, got {self.rule}")

    @property
    def _partners(self) -> np.ndarray:
        return np.random.default_rng(_PARTNERS_SEED).permutation(self.symbols)

    @property
    def _chances(self) -> tuple[float, float]:
        """Return the chance of the partner and that of any other symbol."""
        other = (1 - self.rule) / self.symbols
        return self.rule + other, other

    @property
    def entropy_bits(self) -> float:
        """Return what a predicted token tells who knows the rule."""
        partner, other = self._chances
        return sum(
            -count * chance * log2(chance) for count, chance in ((1, partner), (self.symbols - 1, other)) if chance
        )

    def draw(self, count: int, *seed: int) -> Sequences:
        """Draw strings; the same seed gives the same ones."""
        generator, partners = np.random.default_rng(seed), self._partners
        tokens = generator.integers(self.symbols, size=(count, self.length + 1))
        follows = generator.random(tokens.shape) < self.rule
        for place in range(1, self.length + 1):
            tokens[:, place] = np.where(follows[:, place], partners[tokens[:, place - 1]], tokens[:, place])
        return tokens

    def nats(self, tokens: Sequences) -> Float[np.ndarray, "sequence predicted"]:
        """Return −log p of every token but the first under the law itself: the reference that never saw a string."""
        partner, other = self._chances
        is_partner = tokens[:, 1:] == self._partners[tokens[:, :-1]]
        return np.where(is_partner, -log(partner), -log(other) if other else np.inf)


class TinyShape(BaseModel):
    """What experiments with tiny Gemma 3s share: one shape."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = 16
    layers: int = 1
    hidden: int = 40
    symbols: int = 64
    length_tokens: int = 16

    @property
    def shape(self) -> Shape:
        """Return what is trained."""
        return gemma3(self.width, self.layers, symbols=self.symbols, length=self.length_tokens, hidden=self.hidden)

    @property
    def model_id(self) -> str:
        """Name the shape."""
        return f"gemma3 d{self.width} L{self.layers}"


class TinyGemma(TinyShape):
    """What experiments with strings that have a rule share besides: the seeds of what differs in the models."""

    seeds: tuple[int, ...] = (0, 1, 2)
    workers: int = 1

    def strings(self, rule: float) -> Strings:
        """Return the law of strings whose rule holds so often."""
        return Strings(self.symbols, self.length_tokens, rule)

    def sequences(self, rule: float, fill: float) -> int:
        """Return how many strings have `fill` bits per parameter."""
        return round(fill * self.shape.parameter_count / (self.length_tokens * self.strings(rule).entropy_bits))

    def check(self) -> None:
        """Refuse what cannot be measured."""
        if not self.seeds:
            raise BadInputError("seeds must be at least 1, got 0")
        if self.workers < 1:
            raise BadInputError(f"workers must be at least 1, got {self.workers}")
