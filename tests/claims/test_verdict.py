import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gemma_bench.claims.verdict import (
    Allowed,
    Measured,
    Verdict,
    at_least,
    at_most,
    between,
    decide,
    exactly,
    within_percent,
)

FIGURES = st.floats(-1e9, 1e9)
INTERVALS = st.lists(FIGURES, min_size=3, max_size=3).map(sorted)


def measured(low, value, high, samples=()):
    return Measured(value=value, low=low, high=high, unit="tok/s", samples=samples)


@given(INTERVALS, st.lists(FIGURES, min_size=2, max_size=2).map(sorted))
def test_inside_holds_outside_is_refuted_across_is_inconclusive(interval, allowed):
    verdict = decide(measured(*interval), between(*allowed)).verdict
    inside = allowed[0] <= interval[0] and interval[2] <= allowed[1]
    outside = interval[2] < allowed[0] or allowed[1] < interval[0]
    assert verdict is (Verdict.HOLDS if inside else Verdict.REFUTED if outside else Verdict.INCONCLUSIVE)


@given(FIGURES)
def test_an_exact_figure_is_never_inconclusive(figure):
    for allowed in (at_least(0), at_most(0), exactly(0), within_percent(75, 5)):
        assert decide(Measured.exact(figure, "tok/s"), allowed).verdict.is_decided


@given(INTERVALS, FIGURES)
def test_at_least_and_at_most_contradict_each_other(interval, limit):
    verdicts = {decide(measured(*interval), allowed).verdict for allowed in (at_least(limit), at_most(limit))}
    assert verdicts <= {Verdict.HOLDS, Verdict.REFUTED} or Verdict.INCONCLUSIVE in verdicts


def test_inconclusive_says_how_many_repetitions_would_settle_it():
    judgement = decide(measured(70, 76, 82, samples=(70, 76, 82, 76)), at_least(75))
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert "about 140 more repetitions would settle it" in judgement.reason  # 4 · (6/1)² − 4


def test_an_interval_that_repetitions_do_not_narrow_says_what_would():
    coarse = measured(70, 76, 82, samples=(70, 76, 82, 76)).model_copy(update={"narrowed_by": "a finer grid"})
    assert "not more repetitions but a finer grid may settle it" in decide(coarse, at_least(75)).reason
    assert "narrowed_by" not in coarse.model_dump()


def test_a_median_on_the_threshold_promises_nothing():
    assert "may not settle it" in decide(measured(70, 75, 80, samples=(70, 80)), at_least(75)).reason


@pytest.mark.parametrize("bad", [(2, 1, 3), (1, 3, 2), (math.nan, 1, 2)])
def test_an_interval_must_hold_its_value(bad):
    with pytest.raises(ValueError, match=r"interval must hold its value|finite"):
        measured(*bad)


@pytest.mark.parametrize(
    ("allowed", "text"),
    [
        (at_least(75), "≥ 75"),
        (at_most(1e-5), "≤ 1e-05"),
        (exactly(4096), "= 4,096"),
        (within_percent(6.8, 5), "6.46 … 7.14"),
    ],
)
def test_what_is_allowed_reads_like_a_formula(allowed, text):
    assert str(allowed) == text


def test_a_figure_is_written_with_interval_and_unit():
    assert str(measured(70, 75.5, 80)) == "75.5 [70, 80] tok/s"
    assert str(Measured.exact(512, "tokens")) == "512 tokens"


@pytest.mark.parametrize("ends", [(90, 75), (None, None)])
def test_a_check_that_cannot_pass_or_cannot_fail_is_refused(ends):
    low, high = ends
    with pytest.raises(ValidationError):
        Allowed(low=low, high=high)


def test_a_figure_without_a_unit_is_refused():
    with pytest.raises(ValidationError):
        Measured.exact(1, "")
