import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemma_bench.core.intervals import Interval, mean_interval, median_interval

FIGURES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=12)


@settings(max_examples=30, deadline=None)
@given(FIGURES)
def test_an_interval_holds_its_median_and_stays_within_the_samples(samples):
    value, low, high = median_interval(samples)
    assert min(samples) <= low <= value <= high <= max(samples)


@given(st.floats(-1e6, 1e6), st.integers(1, 9))
def test_equal_samples_leave_no_width(figure, count):
    assert median_interval([figure] * count) == (figure, figure, figure)


def test_the_interval_covers_the_true_median_about_95_times_in_100():
    random = np.random.default_rng(0)
    covered = sum(
        low <= 0 <= high for _, low, high in (median_interval(random.standard_normal(40)) for _ in range(200))
    )
    assert 0.90 <= covered / 200 <= 0.99


def test_more_samples_narrow_the_interval():
    random = np.random.default_rng(1)
    few, many = (median_interval(random.standard_normal(count)) for count in (20, 2000))
    assert many.high - many.low < (few.high - few.low) / 3


def test_no_samples_are_refused():
    with pytest.raises(ValueError, match="at least 1 sample, got 0"):
        median_interval([])


def test_a_mean_has_students_interval():
    """Known answer: 4.303 is Student's t at 2 degrees of freedom, 1/√3 the standard error of 1, 2, 3."""
    value, low, high = mean_interval([1, 2, 3])
    assert (value, high - value, value - low) == pytest.approx((2, 4.303 / 3**0.5, 4.303 / 3**0.5), abs=1e-3)


def test_equal_runs_leave_no_width_and_one_run_is_refused():
    assert mean_interval([0.5, 0.5]) == (0.5, 0.5, 0.5)
    with pytest.raises(ValueError, match="at least 2 samples, got 1"):
        mean_interval([1.0])


def test_figures_go_under_the_names_of_a_record():
    assert Interval(2, 1, 4).named("step", "ms") == {"step_ms": 2, "step_low_ms": 1, "step_high_ms": 4}
    assert Interval(2, 1, 4).named("tokens_per_pass") == {
        "tokens_per_pass": 2,
        "tokens_per_pass_low": 1,
        "tokens_per_pass_high": 4,
    }
