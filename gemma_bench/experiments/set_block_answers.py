"""How right a family's answers are, one token per pass and in blocks, and which pass fixed which of their tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gemma_bench.core.files import Progress
from gemma_bench.core.kept import kept
from gemma_bench.experiments.set_block_arms import SET_BLOCK, START, Trained
from gemma_bench.experiments.set_block_record import Graded
from gemma_bench.experiments.set_block_writing import Setting, patterns, way, written_in_blocks
from gemma_bench.measure.block_quality import Written, quality
from gemma_bench.measure.writing import answer_nats, next_token_answers
from gemma_bench.training.families import EOS, MASK, Example, Family, text_of


def grade_family(
    family: Family,
    examples: Sequence[Example],
    trained: Mapping[str, Trained],
    settings: Sequence[Setting],
    judge: Any,
    progress: Progress,
    state: Path | None,
) -> Graded:
    """Grade one token at a time for every model, and every setting for the one with the block objective.

    The first setting is tried before that training too, where it must fail.
    """
    answers = _Answers(examples, family.answer_tokens, judge)
    one_by_one = {name: answers.one_by_one(found.model, name, state) for name, found in trained.items()}
    graded = Graded([], [])
    for name, written in one_by_one.items():
        what = {"family": family.name, "model": name, **way(None)}
        graded.rows.append({**what, **quality(written, one_by_one[SET_BLOCK])})
    tried = [(START, settings[0]), *((SET_BLOCK, setting) for setting in settings)]
    for number, (name, setting) in enumerate(tried):
        written, drawn = answers.in_blocks(trained[name].model, setting, f"in blocks {number}", state)
        what = {"family": family.name, "model": name, **way(setting)}
        graded.rows.append({**what, **quality(written, one_by_one[name])})
        if number == 1:
            graded.patterns.extend({"row": len(graded.rows) - 1, **pattern} for pattern in drawn)
        progress(f"decoding {family.name}", number + 1, len(tried))
    return graded


@dataclass(frozen=True)
class _Answers:
    """Examples, and the model that says how likely an answer is."""

    examples: Sequence[Example]
    answer_tokens: int
    judge: Any

    def one_by_one(self, model: Any, name: str, state: Path | None) -> Written:
        """Write one token per pass."""

        def write() -> dict[str, Any]:
            found = next_token_answers(model, self._prompts, self.answer_tokens, EOS)
            lengths = [min(len(tokens) + 1, self.answer_tokens) for tokens in found]
            return asdict(self._written(found, lengths, lengths))

        written: Written = kept(state, f"one by one {name}", write, Written)
        return written

    def in_blocks(
        self, model: Any, setting: Setting, name: str, state: Path | None
    ) -> tuple[Written, list[dict[str, Any]]]:
        """Write in blocks; returns the first answers' patterns too."""

        def write() -> dict[str, Any]:
            found = written_in_blocks(model, self._prompts, self.answer_tokens, setting, MASK, (EOS,))
            written = self._written(
                [answer.tokens for answer in found],
                [answer.autoregressive_passes_count for answer in found],
                [answer.passes_count for answer in found],
            )
            prompts = [example.prompt for example in self.examples]
            return {"written": asdict(written), "patterns": patterns(prompts, found, lambda token: text_of([token]))}

        found = kept(state, name, write)
        return Written(**found["written"]), found["patterns"]

    @property
    def _prompts(self) -> list[list[int]]:
        return [example.prompt_tokens for example in self.examples]

    def _written(self, found: Sequence[Sequence[int]], tokens: Sequence[int], passes: Sequence[int]) -> Written:
        ended = [[*answer, EOS][:count] for answer, count in zip(found, tokens, strict=True)]
        is_right = [text_of(answer) in example.right for answer, example in zip(found, self.examples, strict=True)]
        return Written(is_right, tokens, passes, answer_nats(self.judge, self._prompts, ended))
