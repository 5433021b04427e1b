"""How many bits of its data a model holds: what it saves in coding them, over a reference that never saw them.

Source: Morris et al., How much do language models memorize?, arXiv:2505.24832v3, on unintended memorization and on
synthetic data. A sequence's bits are log2 p(x|model) − log2 p(x|reference). For uniform data the reference is the
uniform law; for text it is a model, and per sequence only what is above zero counts (the better of both is the code).
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import log, log2

import numpy as np
from jaxtyping import Float

from gemma_bench.core.errors import BadInputError, InvalidRunError
from gemma_bench.measure.likelihood import Sequences, TokenNats

_LEAST_VOCABULARY = 2


@dataclass(frozen=True)
class SequenceBits:
    """One batch, sequence by sequence: what the reference pays and the model saves; `given` tokens are not scored."""

    tokens: Sequences
    given: int
    reference_bits: Float[np.ndarray, " sequence"]
    saved_bits: Float[np.ndarray, " sequence"]

    def starts(self) -> Iterator[bytes]:
        """Yield what is given of each sequence."""
        return (np.ascontiguousarray(row[: self.given]).tobytes() for row in self.tokens)


@dataclass(frozen=True)
class Memory:
    """What a model holds of a data set, in bits.

    `data_bits` is what the reference pays for all tokens that are predicted. `ceiling_bits` is the most that can be
    saved: whoever knows the whole set still does not know which of its sequences comes (exact where all differ).
    `saved_bits` is signed; `memorised_bits` counts no sequence below zero.
    """

    sequences_count: int
    predicted_tokens_count: int
    data_bits: float
    ceiling_bits: float
    saved_bits: float
    memorised_bits: float

    def bits_per_parameter(self, parameter_count: int) -> float:
        """Return saved bits over all parameters, a tied embedding counted once (`Size.parameter_count`)."""
        if parameter_count < 1:
            raise BadInputError(f"a model must have at least 1 parameter, got {parameter_count}")
        return self.saved_bits / parameter_count


def uniform(vocab_size: int) -> TokenNats:
    """Return the uniform law over a vocabulary, the exact reference for random tokens."""
    if vocab_size < _LEAST_VOCABULARY:
        raise BadInputError(f"a vocabulary must have at least {_LEAST_VOCABULARY} tokens, got {vocab_size}")
    return lambda tokens: np.full(tokens.shape, log(vocab_size))


def sequence_bits(model: TokenNats, reference: TokenNats, batches: Iterable[Sequences]) -> Iterator[SequenceBits]:
    """Yield each batch's bits; batches are read once and never kept, so that data may be larger than memory.

    The first tokens that either side does not predict are given: they cost and save nothing on both sides. Raises
    `InvalidRunError` where a likelihood is no number: a run that diverged holds nothing that can be read.
    """
    for batch in batches:
        ours, theirs = model(batch), reference(batch)
        predicted = min(ours.shape[1], theirs.shape[1])
        if not predicted:
            raise BadInputError(f"no token is predicted in sequences of {batch.shape[1]} tokens: use longer ones")
        costs = [bits(nats[:, nats.shape[1] - predicted :]) for nats in (ours, theirs)]
        if not np.isfinite(costs).all():
            raise InvalidRunError("diverged", "the model or its reference gives likelihoods that are no numbers")
        yield SequenceBits(batch, batch.shape[1] - predicted, costs[1], costs[1] - costs[0])


def bits(nats: Float[np.ndarray, "sequence predicted"]) -> Float[np.ndarray, " sequence"]:
    """Add the tokens of each sequence up, in bits."""
    total: np.ndarray = nats.sum(axis=1, dtype=np.float64) / log(2)
    return total


def memorised(saved_bits: Float[np.ndarray, " sequence"]) -> Float[np.ndarray, " sequence"]:
    """Return what each sequence counts for: nothing where the reference codes it better."""
    positive: np.ndarray = np.maximum(saved_bits, 0.0)
    return positive


def memory(model: TokenNats, reference: TokenNats, batches: Iterable[Sequences]) -> Memory:
    """Read all batches once and add up what the model holds; `batches` may be a generator over data of any size."""
    starts: Counter[bytes] = Counter()
    totals, predicted = np.zeros(3), 0
    for found in sequence_bits(model, reference, batches):
        starts.update(found.starts())
        predicted += len(found.tokens) * (found.tokens.shape[1] - found.given)
        parts = (found.reference_bits, found.saved_bits, memorised(found.saved_bits))
        totals += [part.sum() for part in parts]
    if not starts:
        raise BadInputError("a data set must have at least 1 sequence, got 0")
    unknowable = sum(count * log2(count) for count in starts.values())
    data, saved, positive = map(float, totals)
    return Memory(starts.total(), predicted, data, data - unknowable, saved, positive)
