"""What `generate --decoder sbd` adds: the passes of set block decoding, and their pattern as a picture."""

from collections.abc import Collection, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from rich.text import Text

from gemma_bench.cli.console import errors
from gemma_bench.core.errors import BadInputError, unknown

if TYPE_CHECKING:
    from gemma_bench.methods.set_block_decoding import Pass, SetBlock
    from gemma_bench.methods.set_block_trace import Answer
    from gemma_bench.models.backend import Backend
    from gemma_bench.models.sampling import Sampler

_HIDDEN = "░"


def method(
    decoder: str, block_size: int | None, sampler: str | None, amount: float | None, trace: bool
) -> "SetBlock | None":
    """Return how to decode in blocks, or `None` for one token at a time; refuse what has no meaning."""
    from gemma_bench.methods.block_samplers import block_sampler
    from gemma_bench.methods.set_block_decoding import SetBlock

    if decoder not in ("ar", "sbd"):
        raise unknown("decoder", decoder, ("ar", "sbd"))
    if trace and decoder != "sbd":
        raise BadInputError("--trace draws the passes of set block decoding: add --decoder sbd")
    if decoder == "sbd":
        chosen = block_sampler("entropy" if sampler is None else sampler, amount)
        return SetBlock(sampler=chosen) if block_size is None else SetBlock(block_size, chosen)
    for name, given in (("block-size", block_size), ("sampler", sampler), ("gamma", amount)):
        if given is not None:
            raise BadInputError(f"--{name} is an option of set block decoding: add --decoder sbd")
    return None


class Blocks:
    """The passes of a batch of prompts, run as their tokens are asked for and kept."""

    def __init__(
        self,
        backend: "Backend",
        prompts: Sequence[Sequence[int]],
        max_tokens: int,
        how: "SetBlock",
        choice: "Sampler",
        stop_tokens: Collection[int],
    ) -> None:
        """Check the request; nothing is computed yet."""
        from gemma_bench.methods.set_block_decoding import decode
        from gemma_bench.methods.set_block_passes import passes_of

        self.tokenizer, self.block_size = backend.tokenizer, how.block_size
        self.seen: list[Pass] = []
        self._passes = decode(passes_of(backend), prompts, max_tokens, how, choice, stop_tokens)

    def tokens(self, row: int) -> Iterator[int]:
        """Yield a row's tokens as soon as they are final; what was seen for another row is not run again."""
        from gemma_bench.methods.set_block_trace import stream_tokens

        return stream_tokens(chain(tuple(self.seen), self._kept()), row)

    def _kept(self) -> "Iterator[Pass]":
        for one in self._passes:
            self.seen.append(one)
            yield one

    def _answers(self) -> "tuple[Answer, ...]":
        from gemma_bench.methods.set_block_trace import answers

        return answers(self.seen)

    def told(self, rows: Sequence[dict[str, Any]], duration_s: float) -> list[dict[str, Any]]:
        """Add to what is said of each row its passes and which of them fixed each token; the time is the batch's."""
        figures = ("passes_count", "tokens_per_pass", "fixed_in_pass")
        return [
            {**row, "duration_s": duration_s, **{name: getattr(answer, name) for name in figures}}
            for row, answer in zip(rows, self._answers(), strict=True)
        ]

    def summary(self) -> str:
        """Say what the passes came to: those of all rows together, and the tokens that each row had from one."""
        rates = ", ".join(f"{answer.tokens_per_pass:.2f}" for answer in self._answers())
        return f"{len(self.seen)} passes, {rates} tokens per pass"

    def show_pattern(self) -> None:
        """Draw a line for each pass: what is written by then of its block, with what this pass fixed in reverse."""
        for answer in self._answers():
            words = [self.tokenizer.decode([token]) for token in answer.tokens]
            for line in pattern_of(words, answer.fixed_in_pass, self.block_size):
                errors.print(line, soft_wrap=True)


def pattern_of(words: Sequence[str], fixed_in_pass: Sequence[int], block_size: int) -> Iterator[Text]:
    """Yield the lines of all blocks, a line for each pass."""
    shown = list(map(visible, words))
    for start in range(0, len(words), block_size):
        block = slice(start, start + block_size)
        yield from pattern_lines(shown[block], fixed_in_pass[block])


def pattern_lines(words: Sequence[str], fixed_in_pass: Sequence[int]) -> Iterator[Text]:
    """Yield the lines of one block, the pass's number in front; what is hidden yet is `░`."""
    for number in sorted(set(fixed_in_pass)):
        line = Text(f"{number:>4} ")
        for word, fixed in zip(words, fixed_in_pass, strict=True):
            line.append(word if fixed <= number else _HIDDEN * len(word), "reverse" if fixed == number else "")
        yield line


def visible(text: str) -> str:
    """Return a text in one line, what cannot be seen with a sign in its place."""
    return text.replace("\n", "⏎").replace("\t", "⇥") or "∅"
