"""How good completions of held-out source are: against the file, against the base model, against themselves."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from gemma_bench.core.files import Progress
from gemma_bench.core.intervals import ratio_interval
from gemma_bench.core.kept import kept
from gemma_bench.experiments.set_block_record import Graded
from gemma_bench.experiments.set_block_writing import Setting, patterns, way, written_in_blocks
from gemma_bench.measure.block_quality import Written, quality
from gemma_bench.measure.writing import answer_nats, next_token_answers

_GRAM = 4
_FAMILY = "python"

Texts = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Completions:
    """Prompts of one length with what the file goes on with, and the model that says how likely a completion is."""

    prompts: Texts
    gold: Texts
    decode: Callable[[Sequence[int]], str]
    judge: Any
    mask_token: int

    @classmethod
    def of_rows(
        cls, rows: Texts, prompt_tokens: int, decode: Callable[[Sequence[int]], str], judge: Any, mask_token: int
    ) -> Self:
        """Cut rows of text into prompts of so many tokens and what follows."""
        prompts, gold = [row[:prompt_tokens] for row in rows], [row[prompt_tokens:] for row in rows]
        return cls(prompts, gold, decode, judge, mask_token)

    def one_by_one(self, model: Any) -> dict[str, Any]:
        """Write one token per pass; returns the completions and their grades."""
        begin = time.monotonic()
        found = next_token_answers(model, self.prompts, len(self.gold[0]), None)
        row = self._row(found, list(map(len, found)), found)
        return {"tokens": found, "row": {"s": time.monotonic() - begin, **row}}

    def in_blocks(self, model: Any, setting: Setting, one_by_one: Texts) -> dict[str, Any]:
        """Write in blocks; returns grades beside those of one token per pass, and the patterns of the first."""
        begin = time.monotonic()
        found = written_in_blocks(model, self.prompts, len(self.gold[0]), setting, self.mask_token)
        row = self._row([answer.tokens for answer in found], [answer.passes_count for answer in found], one_by_one)
        prompts = list(map(self.decode, self.prompts))
        drawn = patterns(prompts, found, lambda token: self.decode([token]))
        return {"row": {"s": time.monotonic() - begin, **row}, "patterns": drawn}

    def _row(self, found: Texts, passes: Sequence[int], one_by_one: Texts) -> dict[str, float]:
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
            **fewer.named("fewer_right", "ratio"),
            "agreement_ratio": sum(agreed) / sum(counts),
            **lost.named("agreement_lost", "ratio"),
            "same_ratio": sum(map(_same, found, one_by_one)) / sum(counts),
            "distinct_ratio": sum(map(_distinct, found)) / len(found),
        }

    def _agreements(self, found: Texts) -> list[int]:
        return list(map(_same, found, self.gold))

    def _right(self, found: Texts) -> list[bool]:
        return [self._line(own) == self._line(gold) for own, gold in zip(found, self.gold, strict=True)]

    def _line(self, tokens: Sequence[int]) -> str:
        return self.decode(tokens).partition("\n")[0]


def grade(
    completions: Completions,
    models: Mapping[str, Any],
    ways: Sequence[tuple[str, Setting | None]],
    left_s: float,
    progress: Progress,
    state: Path | None,
) -> tuple[Graded, bool]:
    """Grade models and ways to decode in turn while there is time; one token at a time comes first for each model.

    Returns the lines, with the patterns of the first setting, and whether all were tried; seconds of a run that was
    killed and goes on count as if it had not been.
    """
    graded, one_by_one = Graded([], []), dict[str, Texts]()
    for number, (name, setting) in enumerate(ways):
        if graded.rows and sum(row["s"] for row in graded.rows) > left_s:
            return graded, False
        what = {"family": _FAMILY, "model": name, **way(setting)}
        if setting is None:
            found = kept(state, f"one by one {name}", partial(completions.one_by_one, models[name]))
            one_by_one[name] = found["tokens"]
        else:
            write = partial(completions.in_blocks, models[name], setting, one_by_one[name])
            found = kept(state, f"in blocks {number}", write)
        graded.rows.append({**what, **found["row"]})
        if setting is not None and not graded.patterns:
            graded.patterns.extend({"row": number, **pattern} for pattern in found["patterns"])
        progress("decoding", number + 1, len(ways))
    return graded, True


def _same(found: Sequence[int], other: Sequence[int]) -> int:
    return sum(own == its for own, its in zip(found, other, strict=True))


def _distinct(tokens: Sequence[int]) -> float:
    grams = [tuple(tokens[start : start + _GRAM]) for start in range(len(tokens) - _GRAM + 1)]
    return len(set(grams)) / len(grams)
