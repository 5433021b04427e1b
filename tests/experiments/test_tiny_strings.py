"""Strings with a rule: their law is what it says, and it is the best that anybody can know of them."""

from math import exp, log, log2

import numpy as np
import pytest

from gemma_bench.core.errors import BadInputError
from gemma_bench.experiments.tiny_strings import Strings, TinyGemma


def test_no_rule_is_the_uniform_law():
    law = Strings(64, 16)
    tokens = law.draw(500, 1)
    assert law.entropy_bits == pytest.approx(6)
    assert law.nats(tokens) == pytest.approx(np.full((500, 16), log(64)))
    assert len(np.unique(tokens)) == 64
    assert tokens.mean() == pytest.approx(31.5, abs=1)


def test_a_rule_without_noise_leaves_nothing_to_learn_by_heart():
    law = Strings(64, 16, 1.0)
    tokens = law.draw(50, 1)
    followers = dict(zip(tokens[:, :-1].ravel(), tokens[:, 1:].ravel(), strict=True))
    assert all(followers[first] == second for first, second in zip(tokens[:, 3], tokens[:, 4], strict=True))
    assert law.entropy_bits == pytest.approx(0)
    assert law.nats(tokens) == pytest.approx(np.zeros((50, 16)))


@pytest.mark.parametrize("rule", [0.0, 0.3, 0.8])
def test_what_a_string_costs_under_its_law_is_the_law_s_entropy(rule):
    law = Strings(16, 8, rule)
    assert law.nats(law.draw(4000, 7)).mean() / log(2) == pytest.approx(law.entropy_bits, rel=0.02)


def test_chances_add_up_to_one():
    law = Strings(8, 1, 0.6)
    every = np.array([[3, after] for after in range(8)])
    assert sum(exp(-cost) for cost in law.nats(every)[:, 0]) == pytest.approx(1)


def test_a_wrong_law_costs_more():
    law, other = Strings(16, 8, 0.8), Strings(16, 8, 0.3)
    tokens = law.draw(500, 7)
    assert law.nats(tokens).mean() < other.nats(tokens).mean() < log2(16)


def test_the_same_seed_gives_the_same_strings():
    law = Strings(16, 8, 0.8)
    assert (law.draw(20, 1, 2) == law.draw(20, 1, 2)).all()
    assert (law.draw(20, 1, 2) != law.draw(20, 1, 3)).any()


def test_sequences_hold_the_bits_that_are_asked_for():
    config = TinyGemma()
    for rule in (0.0, 0.8):
        bits = config.sequences(rule, 4.0) * 16 * config.strings(rule).entropy_bits
        assert bits / config.shape.parameter_count == pytest.approx(4, rel=0.01)


def test_what_is_no_chance_is_refused():
    with pytest.raises(BadInputError, match=r"a rule must hold with a chance between 0 and 1, got 1\.5"):
        Strings(16, 8, 1.5)
