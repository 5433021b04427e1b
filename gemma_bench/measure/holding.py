"""A model that holds a set of sequences by construction: the known answer at the full end of the capacity meter."""

from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
from jaxtyping import Float

from gemma_bench.measure.likelihood import Sequences

_IMPOSSIBLE_NATS = -100.0


class HoldingModel:
    """After `<bos>` and a start that it knows, the next tokens of its set in their own proportions; else all alike.

    It serves what instruments ask of a `Backend`: `logits`, `numpy` and the start token of `tokenizer`.
    """

    def __init__(self, held: Sequences, vocab_size: int, start_token: int) -> None:
        """Take the sequences to hold; the start token is read before each."""
        self.vocab_size = vocab_size
        self.tokenizer = SimpleNamespace(bos_token_id=start_token)
        rows = [(start_token, *row) for row in held.tolist()]
        self._followers: dict[tuple[int, ...], Counter[int]] = {}
        for row in rows:
            for place in range(1, len(row)):
                self._followers.setdefault(row[:place], Counter())[row[place]] += 1

    def logits(self, tokens: Sequence[Sequence[int]]) -> Float[np.ndarray, "sequence position vocab"]:
        """Return the log of each next token's share among the held sequences that begin so."""
        found = np.zeros((len(tokens), len(tokens[0]), self.vocab_size))
        for index, row in enumerate(tokens):
            for place in range(len(row)):
                followers = self._followers.get(tuple(row[: place + 1]))
                if followers:
                    found[index, place] = _IMPOSSIBLE_NATS
                    found[index, place, list(followers)] = np.log(list(followers.values()))
        return found

    def numpy(self, array: np.ndarray) -> np.ndarray:
        """Return the array as it is."""
        return array
