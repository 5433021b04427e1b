"""Families: answers that are right by construction, nothing of the test in training, rows that leak no length."""

from random import Random

import pytest
import torch

from gemma_bench.core.errors import BadInputError
from gemma_bench.training.families import BOS, EOS, FAMILIES, draw, find_family, text_of, token_rows


@pytest.mark.parametrize("name", FAMILIES)
def test_every_answer_is_right_and_fits(name):
    family = find_family(name)
    for held_out in (False, True):
        for example in draw(family, 200, 0, held_out=held_out):
            assert example.answer in example.right
            assert len(example.prompt_tokens) <= family.prompt_tokens
            assert len(example.answer) + 1 <= family.answer_tokens


@pytest.mark.parametrize("name", FAMILIES)
def test_nothing_held_out_is_trained_on(name):
    family = find_family(name)
    seen, unseen = ({one.key for one in draw(family, 300, seed, held_out=seed == 1)} for seed in (0, 1))
    assert seen
    assert unseen
    assert not seen & unseen


def test_known_answers():
    random = Random(0)  # noqa: S311
    example = find_family("sums").draw(random)
    first, second = map(int, example.prompt.rstrip(">").split("+"))
    assert int(example.answer) == first + second
    choices = find_family("choice").draw(random)
    assert choices.right == frozenset(choices.prompt.rstrip(">").split(" "))
    assert len(choices.right) == 3


def test_rows_count_the_answer_and_its_fill():
    examples = draw(find_family("sums"), 3, 0, held_out=False)
    rows, is_counted = token_rows(examples, 16)
    for row, counted, example in zip(rows, is_counted, examples, strict=True):
        start = len(example.prompt_tokens)
        assert row[0] == BOS
        assert text_of(row[start : start + 3].tolist()) == example.answer
        assert (row[start + 3 :] == EOS).all()
        assert torch.equal(counted, torch.arange(16) >= start)


def test_what_does_not_fit_or_is_unknown_is_refused():
    with pytest.raises(BadInputError, match="length must be above"):
        token_rows(draw(find_family("record"), 1, 0, held_out=False), 20)
    with pytest.raises(BadInputError, match="unknown family 'poem'"):
        find_family("poem")
