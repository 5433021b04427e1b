"""How good completions of held-out source are: against the file, against the base model, against themselves."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gemma_bench.core.intervals import ratio_interval
from gemma_bench.experiments.set_block_writing import Setting, written_in_blocks
from gemma_bench.measure.block_quality import Written, bounds, quality
from gemma_bench.measure.writing import answer_nats, next_token_answers

_GRAM = 4


@dataclass(frozen=True)
class Completions:
    """Prompts of one length with what the file goes on with, and the model that says how likely a completion is."""

    prompts: Sequence[Sequence[int]]
    gold: Sequence[Sequence[int]]
    tokenizer: Any
    judge: Any
    mask_token: int

    def one_by_one(self, model: Any) -> list[tuple[int, ...]]:
        """Write one token per pass."""
        return list(next_token_answers(model, self.prompts, len(self.gold[0]), None))

    def in_blocks(self, model: Any, setting: Setting) -> tuple[list[tuple[int, ...]], list[int]]:
        """Write in blocks; returns the completions and the passes that each took."""
        found = written_in_blocks(model, self.prompts, len(self.gold[0]), setting, self.mask_token)
        return [answer.tokens for answer in found], [answer.passes_count for answer in found]

    def row(
        self, found: Sequence[Sequence[int]], passes: Sequence[int], one_by_one: Sequence[Sequence[int]]
    ) -> dict[str, float]:
        """Grade completions beside those that the same model writes one token at a time.

        `right` is the share of completions whose first line is the file's; `agreement` that of tokens which are the
        file's, `agreement_lost` how much lower it is than one by one; `nats` are the judge's per token; `distinct` is
        the share of runs of four tokens that are no repetition.
        """
        agreed, agreed_before = self._agreements(found), self._agreements(one_by_one)
        counts = [len(tokens) for tokens in found]
        lost = ratio_interval([before - now for now, before in zip(agreed, agreed_before, strict=True)], counts)
        right, right_before = self._right(found), self._right(one_by_one)
        fewer = ratio_interval(
            [before - now for now, before in zip(right, right_before, strict=True)], [1] * len(right)
        )
        nats = answer_nats(self.judge, self.prompts, found)
        return {
            **quality(Written(right, counts, passes, nats), Written(right_before, counts, counts, nats)),
            **bounds("fewer_right", "_ratio", fewer),
            "agreement_ratio": sum(agreed) / sum(counts),
            **bounds("agreement_lost", "_ratio", lost),
            "same_ratio": sum(map(_same, found, one_by_one)) / sum(counts),
            "distinct_ratio": sum(map(_distinct, found)) / len(found),
        }

    def _agreements(self, found: Sequence[Sequence[int]]) -> list[int]:
        return list(map(_same, found, self.gold))

    def _right(self, found: Sequence[Sequence[int]]) -> list[bool]:
        return [self._line(own) == self._line(gold) for own, gold in zip(found, self.gold, strict=True)]

    def _line(self, tokens: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(tokens)
        return text.partition("\n")[0]


def _same(found: Sequence[int], other: Sequence[int]) -> int:
    return sum(own == its for own, its in zip(found, other, strict=True))


def _distinct(tokens: Sequence[int]) -> float:
    grams = [tuple(tokens[start : start + _GRAM]) for start in range(len(tokens) - _GRAM + 1)]
    return len(set(grams)) / len(grams)
