"""Completions and answers graded by hand-made models: known shares of right lines, agreement and repetition."""

import pytest

from gemma_bench.experiments import set_block_answers, set_block_completions
from gemma_bench.experiments.set_block_arms import Trained
from gemma_bench.experiments.set_block_completions import Completions, grade
from gemma_bench.experiments.set_block_writing import Setting
from gemma_bench.methods.set_block_trace import Answer
from gemma_bench.training.families import EOS, Example, Family

NEWLINE = 10
GOLD = [[65, 66, NEWLINE, 67, 68], [70, 71, 72, 73, 74]]


def decode(tokens):
    return bytes(tokens).decode()


@pytest.fixture
def written(monkeypatch):
    """Let a model be its completions, one by one and in blocks, and a token cost half a nat."""
    module = set_block_completions
    monkeypatch.setattr(module, "next_token_answers", lambda model, *_: model[0])
    monkeypatch.setattr(
        module,
        "written_in_blocks",
        lambda model, *_: [Answer(tuple(tokens), (1,) * len(tokens), 2, is_ended=False) for tokens in model[1]],
    )
    monkeypatch.setattr(module, "answer_nats", lambda _, __, found: [0.5 * len(tokens) for tokens in found])


@pytest.mark.usefixtures("written")
def test_lines_tokens_and_repetitions_are_counted():
    """The first line of the first completion is right although more follows; the second one repeats itself."""
    completions = Completions([[1], [1]], GOLD, decode, None, 4)
    in_blocks = [[65, 66, NEWLINE, 90, 90], [70, 70, 70, 70, 70]]
    graded, is_complete = grade(
        completions, {"own": (GOLD, in_blocks)}, [("own", None), ("own", Setting())], 60, lambda *_: None, None
    )
    one_by_one, row = graded.rows
    assert is_complete
    assert (one_by_one["right_ratio"], one_by_one["agreement_ratio"], one_by_one["tokens_per_pass"]) == (1, 1, 1)
    assert (row["right_ratio"], row["fewer_right_ratio"], row["lost_ratio"]) == (0.5, 0.5, 0.5)
    assert row["agreement_ratio"] == row["same_ratio"] == 1 - row["agreement_lost_ratio"] == 4 / 10
    assert row["tokens_per_pass"] == 10 / 4
    assert row["nats"] == 0.5
    assert row["distinct_ratio"] == pytest.approx((1 + 1 / 2) / 2)
    assert [pattern["row"] for pattern in graded.patterns] == [1, 1]
    assert graded.patterns[0]["words"] == list("AB\nZZ")


@pytest.mark.usefixtures("written")
def test_no_setting_is_begun_when_time_is_up():
    completions = Completions([[1], [1]], GOLD, decode, None, 4)
    graded, is_complete = grade(
        completions, {"own": (GOLD, GOLD)}, [("own", None), ("own", Setting())], 0, lambda *_: None, None
    )
    assert ([row["decoder"] for row in graded.rows], graded.patterns, is_complete) == (["next token"], [], False)


def test_an_answer_s_end_counts_as_a_token(monkeypatch):
    """Both prompts right one by one; in blocks the second one says something else, in as many passes as tokens."""
    right = [tuple(b"ab"), tuple(b"abc")]
    examples = [Example("x>", "ab", frozenset({"ab"}), "x"), Example("y>", "abc", frozenset({"abc"}), "y")]
    in_blocks = [Answer(right[0], (1, 1), 1, is_ended=True), Answer(tuple(b"abd"), (1, 2, 3), 4, is_ended=True)]
    scored = []
    monkeypatch.setattr(set_block_answers, "next_token_answers", lambda *_: right)
    monkeypatch.setattr(set_block_answers, "written_in_blocks", lambda *_: in_blocks)
    monkeypatch.setattr(
        set_block_answers, "answer_nats", lambda _, __, found: scored.append(found) or [1.0] * len(found)
    )
    trained = {name: Trained(None, 1, 1.0) for name in ("start", "set block")}
    family = Family("letters", None, 3, 8)
    graded = set_block_answers.grade_family(family, examples, trained, [Setting()], None, lambda *_: None, None)
    one_by_one, _, _, row = graded.rows
    assert (one_by_one["right_ratio"], one_by_one["tokens_per_pass"]) == (1, 1)
    assert (row["right_ratio"], row["lost_ratio"], row["tokens_per_pass"]) == (0.5, 0.5, 7 / 5)
    assert scored[0] == [[97, 98, EOS], [97, 98, 99, EOS]]
    assert graded.patterns[1] == {"row": 3, "prompt": "y>", "words": ["a", "b", "d"], "fixed_in_pass": [1, 2, 3]}
