"""Which masked tokens a pass fixes: the rules against their definitions, tried one subset at a time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from gemma_bench.core.errors import BadInputError
from gemma_bench.methods.block_samplers import EntropyBounded, Factor, FixedCount, LeftPrefix, block_sampler

entropies = arrays.arrays(np.float64, st.integers(1, 16), elements=st.floats(0, 3))
confidences = arrays.arrays(np.float64, st.integers(1, 16), elements=st.floats(0.01, 1))
gammas = st.one_of(st.floats(0, 5), st.just(0.0), st.just(float("inf")))
SAMPLERS = st.sampled_from([EntropyBounded(0.1), LeftPrefix(0.3), Factor(1.5), FixedCount(3)])


def longest_prefix(figures: np.ndarray, gamma: float) -> int:
    """The definition, one length at a time: the last of these is the longest."""
    return max(n for n in range(1, len(figures) + 1) if np.sort(figures[:n])[:-1].sum() <= gamma)


@given(entropies, gammas)
def test_the_entropy_bound_takes_the_largest_set_that_it_allows(found: np.ndarray, gamma: float) -> None:
    fixed, ranked = EntropyBounded(gamma).fix(found, found), np.sort(found)
    count = longest_prefix(ranked, gamma)
    assert len(fixed) == pytest.approx(count, abs=0 if _is_clear(ranked, gamma) else 1)
    assert np.allclose(np.sort(found[fixed]), ranked[: len(fixed)])


def _is_clear(ranked: np.ndarray, gamma: float) -> bool:
    """Whether no sum lies so close to the bound that the order of adding decides."""
    sums = [np.sort(ranked[:n])[:-1].sum() for n in range(2, len(ranked) + 1)]
    return gamma == 0 or all(abs(total - gamma) > 1e-9 for total in sums)


@given(entropies, gammas)
def test_the_left_prefix_leaves_no_gap(found: np.ndarray, gamma: float) -> None:
    fixed = LeftPrefix(gamma).fix(found, found)
    assert fixed.tolist() == list(range(len(fixed)))
    assert len(fixed) == pytest.approx(longest_prefix(found, gamma), abs=0 if _is_clear(found, gamma) else 1)
    assert len(fixed) <= len(EntropyBounded(gamma).fix(found, found)) or not _is_clear(np.sort(found), gamma)


@given(entropies)
def test_the_ends_of_gamma(found: np.ndarray) -> None:
    positive = found + 0.01
    assert len(EntropyBounded(0).fix(positive, found)) == 1
    assert len(EntropyBounded(float("inf")).fix(positive, found)) == len(found)


@given(confidences, st.floats(0.01, 20))
def test_factor_is_its_definition(found: np.ndarray, factor: float) -> None:
    ranked = -np.sort(-found)
    allowed = [n for n in range(1, len(found) + 1) if (n + 1) * (1 - ranked[n - 1]) < factor]
    fixed = Factor(factor).fix(found, found)
    assert len(fixed) == max(allowed, default=1)
    assert np.allclose(-np.sort(-found[fixed]), ranked[: len(fixed)])


def test_factor_of_the_paper_by_hand() -> None:
    """Thresholds are 1 − f/(n + 1): 0.5, 0.667, 0.75 for f = 1."""
    sure = np.array([0.74, 0.9, 0.7, 0.6])
    assert Factor(1.0).fix(sure, sure).tolist() == [0, 1]
    assert Factor(1.3).fix(sure, sure).tolist() == [0, 1, 2]


@given(SAMPLERS, entropies)
def test_every_rule_fixes_at_least_one_and_none_twice(sampler: EntropyBounded, found: np.ndarray) -> None:
    fixed = sampler.fix(found, np.exp(-found)).tolist()
    assert 1 <= len(fixed) <= len(found)
    assert fixed == sorted(set(fixed))
    assert set(fixed) <= set(range(len(found)))


@given(entropies, st.integers(1, 20))
def test_a_fixed_count_is_that_count(found: np.ndarray, count: int) -> None:
    fixed = FixedCount(count).fix(found, found)
    assert len(fixed) == min(count, len(found))
    assert np.allclose(np.sort(found[fixed]), np.sort(found)[: len(fixed)])


@pytest.mark.parametrize(
    ("name", "amount", "told"),
    [
        ("entropy", -0.1, "gamma must be at least 0 nats, got -0.1"),
        ("left", float("nan"), "gamma must be at least 0 nats, got nan"),
        ("factor", 0, "factor must be above 0, got 0"),
        ("fixed", 0, "count must be at least 1 token, got 0"),
        ("fixed", 1.5, "count must be a whole number of tokens, got 1.5"),
        ("threshold", 1, "unknown sampler 'threshold', expected one of entropy, left, factor, fixed"),
    ],
)
def test_rules_without_meaning_are_refused(name: str, amount: float, told: str) -> None:
    with pytest.raises(BadInputError, match=told):
        block_sampler(name, amount)


def test_names_lead_to_samplers() -> None:
    named = [block_sampler(name, 2) for name in ("entropy", "left", "factor", "fixed")]
    assert named == [EntropyBounded(2), LeftPrefix(2), Factor(2), FixedCount(2)]
