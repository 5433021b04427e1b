"""What to make of set block decoding's passes: answers with their counts, tokens as they become final, a picture."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gemma_bench.methods.set_block_decoding import Pass


@dataclass(frozen=True)
class Answer:
    """One row's answer and the pass, from 1, that fixed each of its tokens.

    `passes_count` are the row's own passes up to its end, the prompt's among them; `is_ended` says whether a stop token
    ended it, which is a token that had to be predicted too.
    """

    tokens: tuple[int, ...]
    fixed_in_pass: tuple[int, ...]
    passes_count: int
    is_ended: bool

    @property
    def autoregressive_passes_count(self) -> int:
        """The passes that one token at a time takes: one per token, the stop token's among them."""
        return len(self.tokens) + self.is_ended

    @property
    def tokens_per_pass(self) -> float:
        """Useful tokens per pass: those up to the end, the stop token among them."""
        return self.autoregressive_passes_count / self.passes_count


def answers(passes: Iterable[Pass]) -> tuple[Answer, ...]:
    """Run the passes to their end and return each row's answer."""
    seen = list(passes)
    if not seen:
        return ()
    return tuple(_answer(row, length, seen) for row, length in enumerate(seen[-1].lengths))


def _answer(row: int, length: int, seen: list[Pass]) -> Answer:
    fixed: dict[int, tuple[int, int]] = {}
    count = 0
    for one in seen:
        own = [found for found in one.fixed if found.row == row]
        count += bool(own)
        fixed |= {found.position: (found.token, count) for found in own}
    kept = [fixed[position] for position in range(length)]
    is_ended = length in fixed  # by a stop token, which is no part of the answer
    return Answer(tuple(token for token, _ in kept), tuple(number for _, number in kept), count, is_ended)


def stream_tokens(passes: Iterable[Pass], row: int = 0) -> Iterator[int]:
    """Yield a row's tokens as soon as they are final: fixed, like all before them; behind the last no pass is run."""
    fixed: dict[int, int] = {}
    position = 0
    for one in passes:
        fixed |= {found.position: found.token for found in one.fixed if found.row == row}
        while position in fixed and position < one.lengths[row]:
            yield fixed[position]
            position += 1
        if position == one.lengths[row]:
            return
