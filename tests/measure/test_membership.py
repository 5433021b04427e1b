"""The loss-threshold attack: certain where losses are apart, a coin where they are alike."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu, norm

from gemma_bench.core.errors import BadInputError
from gemma_bench.measure.membership import attack, auc, best_threshold, f1_score


def losses(mean, count, seed=0):
    return np.random.default_rng(seed).normal(mean, 1, count)


class TestAttack:
    def test_members_that_all_cost_less_are_all_told(self):
        found = attack(losses(-50, 40), losses(0, 40))
        assert found.auc.value == 1
        assert found.f1.value == pytest.approx(1, abs=0.03)

    def test_two_halves_of_one_sample_are_a_coin_and_the_floor(self):
        alike = losses(0, 4000)
        found = attack(alike[::2], alike[1::2])
        assert found.auc.low <= 0.5 <= found.auc.high
        assert found.f1.value == pytest.approx(found.f1_floor, abs=0.01)
        assert found.f1_floor == pytest.approx(2 / 3)

    def test_members_that_cost_more_are_worse_than_a_coin(self):
        assert attack(losses(1, 400), losses(0, 400, 1)).auc.high < 0.5

    def test_the_auc_of_two_normal_laws_is_known(self):
        found = attack(losses(0, 4000), losses(1, 4000, 1))
        assert found.auc.low <= norm.cdf(1 / np.sqrt(2)) <= found.auc.high

    def test_a_threshold_fitted_on_the_same_data_would_flatter(self):
        ours, others = losses(0, 40), losses(0, 40, 1)
        fitted = best_threshold(ours, others)
        flattered = f1_score((ours <= fitted).mean(), (others <= fitted).mean(), 0.5)
        assert attack(ours, others).f1.value <= flattered

    def test_the_floor_follows_the_share_of_members(self):
        assert attack(losses(0, 300), losses(0, 100)).f1_floor == pytest.approx(2 * 0.75 / 1.75)


class TestIntervals:
    def test_the_interval_holds_the_truth_about_as_often_as_it_says(self):
        truth = norm.cdf(1 / np.sqrt(2))
        intervals = [auc(losses(0, 60, 2 * seed), losses(1, 60, 2 * seed + 1)) for seed in range(200)]
        assert 0.9 <= np.mean([found.low <= truth <= found.high for found in intervals]) <= 0.99

    @settings(max_examples=30, deadline=None)
    @given(st.lists(st.integers(0, 9), min_size=4, max_size=30), st.lists(st.integers(0, 9), min_size=4, max_size=30))
    def test_auc_is_mann_whitney_s_and_symmetric(self, ours, others):
        ours, others = np.array(ours, float), np.array(others, float)
        found = auc(ours, others)
        statistic = mannwhitneyu(others, ours).statistic
        assert found.value == pytest.approx(statistic / (len(ours) * len(others)))
        assert found.value == pytest.approx(1 - auc(others, ours).value)
        assert 0 <= found.low <= found.value <= found.high <= 1

    @settings(max_examples=30, deadline=None)
    @given(st.lists(st.integers(0, 9), min_size=4, max_size=20), st.lists(st.integers(0, 9), min_size=4, max_size=20))
    def test_no_other_threshold_has_a_higher_f1(self, ours, others):
        ours, others = np.array(ours, float), np.array(others, float)
        share = len(ours) / (len(ours) + len(others))

        def f1(threshold):
            return f1_score((ours <= threshold).mean(), (others <= threshold).mean(), share)

        best = max(map(f1, np.unique(np.concatenate([ours, others]))))
        assert f1(best_threshold(ours, others)) == pytest.approx(best)


class TestBadInput:
    def test_too_few(self):
        with pytest.raises(BadInputError, match="members must be at least 4 sequences, got 3"):
            attack(losses(0, 3), losses(0, 9))

    def test_a_loss_that_is_no_number(self):
        with pytest.raises(BadInputError, match="losses of others must be numbers, got nan"):
            attack(losses(0, 4), np.array([1, 2, np.nan, 3]))
