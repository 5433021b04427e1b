"""Comparisons, checks of output, growth over length, and products, each with a known answer and a control."""

import itertools

import numpy as np
import pytest
import torch

from gemma_bench.core.errors import BadInputError
from gemma_bench.measure import matvec, steadiness
from gemma_bench.measure.comparison import compare, compared, smallest_effect_percent
from gemma_bench.measure.correctness import check_output
from gemma_bench.measure.cost import expected_tokens_per_s, step_bytes
from gemma_bench.measure.throughput import Trial, Workload, run_trial
from gemma_bench.models.catalog import SIZES, TINY
from gemma_bench.models.loading import load
from gemma_bench.models.tiny import random_folder


class TestComparison:
    def noisy(self, rate, spread=0.02, seed=0):
        random = np.random.default_rng(seed)
        return lambda: rate * float(np.exp(random.normal(0, spread)))

    def test_a_known_ratio_is_found_and_told_from_none(self):
        found = compare(self.noisy(200), self.noisy(100, seed=1), 20)
        assert found.ratio.low < 2 < found.ratio.high
        assert found.ratio.high / found.ratio.low < 1.05
        assert found.can_be_told_apart
        assert len(found.a) == len(found.b) == 40

    def test_a_thing_compared_with_itself_is_not_told_apart(self):
        told_apart = [
            compare(self.noisy(100, seed=seed), self.noisy(100, seed=seed + 100), 10).can_be_told_apart
            for seed in range(40)
        ]
        assert sum(told_apart) <= 2

    def test_more_unrest_hides_larger_effects(self):
        quiet, loud = (compare(self.noisy(100, spread), self.noisy(100, spread, 1), 20) for spread in (0.01, 0.1))
        assert 3 * quiet.smallest_effect_percent < loud.smallest_effect_percent

    def test_a_steady_drift_cancels(self):
        clock = itertools.count(1000, 5)
        found = compare(lambda: float(next(clock)), lambda: float(next(clock)), 10)
        assert found.ratio.value == pytest.approx(1, abs=1e-4)

    def test_order_is_a_b_b_a(self):
        said = []
        compare(lambda: said.append("A") or 1.0, lambda: said.append("B") or 1.0, 2)
        assert "".join(said) == "AB" + "ABBA" * 2

    def test_exact_figures_have_no_noise(self):
        found = compared([(3.0, 2.0, 2.0, 3.0)] * 4)
        assert (found.ratio.value, found.smallest_effect_percent) == (pytest.approx(1.5), 0)

    def test_what_moves_a_ratio_from_round_to_round_hides_smaller_effects(self):
        assert smallest_effect_percent([2.0] * 5) == 0
        assert smallest_effect_percent([2.0, 2.2, 2.0, 2.2, 2.0]) == 0, "control: two moods by turns are one ratio each"
        assert 5 < smallest_effect_percent([2.0, 2.2, 2.1, 1.9, 2.0, 2.2]) < 20
        assert smallest_effect_percent([2.0, 2.2]) is None

    def test_one_round_is_no_comparison(self):
        with pytest.raises(BadInputError, match="rounds must be at least 2, got 1"):
            compare(lambda: 1.0, lambda: 1.0, 1)


class TestOutput:
    workload = Workload(prompt_tokens=12, new_tokens=10)

    def test_what_a_model_wrote_is_right_and_anything_else_is_not(self, backend):
        (written,) = run_trial(backend, self.workload).rows
        found = check_output(backend, self.workload, [written])
        assert found.is_correct
        assert (found.same_tokens_ratio, found.largest_gap_nats) == (1, 0)
        changed = [*written[:4], (written[4] + 1) % TINY.vocab_size, *written[5:]]
        assert not check_output(backend, self.workload, [changed]).is_correct

    @pytest.mark.parametrize(("row", "place"), [(0, 0), (2, 5), (1, 39)])
    def test_every_row_is_checked_at_its_start_and_its_end(self, tiny, row, place):
        backend, workload = load(tiny, "torch", "cpu"), Workload(prompt_tokens=12, new_tokens=40, batch_size=3)
        rows = [list(written) for written in run_trial(backend, workload).rows]
        found = check_output(backend, workload, rows)
        assert found.is_correct
        assert found.checked_count_tokens == 3 * 32
        rows[row][place] = (rows[row][place] + 1) % TINY.vocab_size
        assert not check_output(backend, workload, rows).is_correct

    def test_two_libraries_write_the_same(self, tiny):
        ours, theirs = (load(tiny, library, "cpu") for library in ("torch", "mlx"))
        found = check_output(ours, self.workload, run_trial(ours, self.workload).rows, reference=theirs)
        assert found.is_correct
        assert found.same_tokens_ratio == 1

    def test_another_model_s_output_is_far_off(self, tiny, tmp_path):
        other = load(random_folder(tmp_path / "other", TINY, seed=1), "torch", "cpu")
        found = check_output(other, self.workload, run_trial(other, self.workload).rows, load(tiny, "torch", "cpu"))
        assert found.largest_gap_nats > 1
        assert found.same_tokens_ratio < 0.5

    def test_a_float16_that_overflows_is_no_output(self, tiny):
        backend = load(tiny, "torch", "cpu", "float16")
        backend.model.model.layers[0].post_feedforward_layernorm.weight.data.fill_(60_000)
        found = check_output(backend, self.workload, [[7] * 10])
        assert not found.has_finite_logits
        assert not found.is_correct
        assert found.largest_gap_nats is None


def trial(times, workload=None):
    stamps = np.cumsum([1e9, *(1e9 * time for time in times)]).round().astype(int).tolist()
    return Trial(workload or Workload(10, len(stamps)), 0, tuple(stamps), ((7,) * len(stamps),))


class TestEqualDepth:
    def test_both_end_with_the_same_cache(self, backend, monkeypatch):
        ran = []

        def run(_, workload, __):
            ran.append(workload)
            return trial([0.01] * (workload.new_tokens - 1), workload)

        monkeypatch.setattr(steadiness, "run_trial", run)
        found = steadiness.compare_at_equal_depth(backend, 18, 100, 2)
        assert {workload.prompt_tokens + workload.new_tokens for workload in ran} == {108}
        assert {workload.new_tokens for workload in ran} == {18, 100}
        assert found.ratio == pytest.approx((1, 1, 1))

    def test_tokens_that_grow_dearer_are_found(self, backend, monkeypatch):
        """A token that takes 1 % more than the first for every one before it: those at 83–99 over those at 0–16."""

        def run(_, workload, __):
            return trial([0.01 + 0.0001 * written for written in range(workload.new_tokens - 1)], workload)

        monkeypatch.setattr(steadiness, "run_trial", run)
        found = steadiness.compare_at_equal_depth(backend, 18, 100, 2)
        assert found.ratio.value == pytest.approx((1 + 0.9) / (1 + 0.08), rel=1e-3)


class TestProducts:
    shape = (512, 256)

    def test_four_bits_multiply_as_their_values_say(self):
        matrix = matvec.random_matrix(self.shape)
        packed, scales = matvec.quantised(matrix)
        vectors = torch.eye(self.shape[1], dtype=torch.bfloat16)
        values = matvec.int4_times(vectors, packed, scales).float().T
        step = (matrix.view(512, -1, 64).amax(-1) - matrix.view(512, -1, 64).amin(-1)) / 15
        worst = (values - matrix).abs().view(512, -1, 64).amax(-1)
        assert (worst <= 0.6 * step + 0.03).all(), "half a step, and bfloat16's rounding"
        assert (packed.nbytes + scales.nbytes) * 8 / matrix.numel() == 4.5

    def test_copies_fill_the_room_and_are_taken_in_turn(self):
        assert matvec._copies(100, 1000) == 10
        assert matvec._copies(100, 1001) == 11
        assert matvec._copies(5000, 1000) == 1

    def test_both_products_are_timed_in_turn(self, monkeypatch):
        monkeypatch.setattr(matvec, "buffer_bytes", lambda: 10_000_000)
        found = matvec.time_products(self.shape, rounds=3)
        assert len(found.comparison.a) == 6
        assert found.bf16_bytes_per_s == pytest.approx(512 * 256 * 2 / np.median(found.comparison.a))
        assert found.int4_bytes_per_s == pytest.approx(512 * 256 * 4.5 / 8 / np.median(found.comparison.b))

    def test_mlx_s_products_agree_with_each_other(self):
        from gemma_bench.measure.matvec_mlx import mlx_products

        sixteen, four = mlx_products(self.shape, 1)
        exact, near = (np.array(product.run().astype(_float32())) for product in (sixteen, four))
        assert np.abs(exact - near).max() < 0.1 * 256
        assert np.corrcoef(exact.ravel(), near.ravel())[0, 1] > 0.9
        assert four.weights_bytes * 8 / (512 * 256) == 4.5


def _float32():
    import mlx.core as mx

    return mx.float32


class TestCost:
    def test_every_sequence_brings_its_own_cache(self):
        one, four = (step_bytes(TINY, 1000, 20, batch, 4) for batch in (1, 4))
        assert four - 1000 == 4 * (one - 1000) == 4 * TINY.kv_cache_bytes(20, 4)

    @pytest.mark.parametrize(
        ("model", "bits", "rate", "bandwidth"),
        [
            ("1b", 4, 258, 819e9),
            ("4b", 4, 141, 819e9),
            ("4b", 4, 152.5, 819e9),
            ("12b", 4, 72.5, 819e9),
            ("12b", 4, 69.4, 819e9),
            ("12b", 4, 55.1, 546e9),
            ("27b", 4, 35.2, 819e9),
        ],
    )
    def test_what_was_reported_is_expected(self, model, bits, rate, bandwidth):
        low, high, ceiling = expected_tokens_per_s(SIZES[model].weight_bytes(bits, 64), bandwidth)
        assert low <= rate <= high < ceiling

    def test_sixteen_bits_of_4_billion_reach_77_percent(self):
        low, high, ceiling = expected_tokens_per_s(8.05e9, 546e9)
        assert low <= 52.47 <= high * 1.005 < ceiling
