"""Spectra of changes: known answers, zero on controls, and agreement with the library's own decomposition."""

import math
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gemma_bench.core.errors import BadInputError
from gemma_bench.measure import spectrum
from gemma_bench.measure.comparison import compare
from gemma_bench.measure.spectrum import (
    Factors,
    Spectrum,
    directions,
    overlap,
    random_sum,
    rounding_noise,
    spectrum_of_factors,
    spectrum_of_matrix,
    summed,
)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def orthonormal(rows, columns, seed):
    return torch.linalg.qr(torch.randn(rows, columns, generator=generator(seed), dtype=torch.float64))[0]


def with_values(values, shape, seed=0):
    """Return factors whose product has exactly these singular values."""
    values = torch.tensor(values, dtype=torch.float64)
    left, right = (orthonormal(side, len(values), seed + at) for at, side in enumerate(shape))
    return Factors(left * values, right.mT)


shapes = st.tuples(st.integers(2, 24), st.integers(2, 24))


@st.composite
def factors(draw):
    (rows, columns), rank, seed = draw(shapes), draw(st.integers(1, 30)), draw(st.integers(0, 999))
    b, a = torch.randn(rows, rank, generator=generator(seed)), torch.randn(rank, columns, generator=generator(seed + 1))
    return Factors(b, a, draw(st.floats(0.1, 10)))


def product(change):
    return change.scale * change.b.double() @ change.a.double()


class TestKnownAnswers:
    @pytest.mark.parametrize("shape", [(40, 60), (60, 40), (50, 50)])
    def test_planted_singular_values_are_found_both_ways(self, shape):
        planted = [3.0, 1.0, 0.5, 1e-3]
        change = with_values(planted, shape)
        for found in (spectrum_of_factors(change), spectrum_of_matrix(product(change))):
            assert found.values[:4].tolist() == pytest.approx(planted, rel=1e-8)
            assert found.rank == 4
            assert found.norm == pytest.approx(math.sqrt(sum(value**2 for value in planted)))

    def test_equal_values_give_their_number_as_every_rank(self):
        found = spectrum_of_factors(with_values([0.7] * 5, (20, 30)))
        assert found.rank == 5
        assert found.effective_rank == pytest.approx(5)
        assert found.stable_rank == pytest.approx(5)

    def test_effective_rank_uses_values_not_squares(self):
        p = torch.tensor([0.75, 0.25])
        assert Spectrum(torch.tensor([3.0, 1.0]), 0.0).effective_rank == pytest.approx(
            float(torch.exp(-(p * p.log()).sum()))
        )

    def test_stable_rank_of_two_values(self):
        assert Spectrum(torch.tensor([2.0, 1.0]), 0.0).stable_rank == pytest.approx(1.25)

    def test_no_change_has_no_rank(self):
        for found in (
            spectrum_of_matrix(torch.zeros(4, 6)),
            spectrum_of_factors(Factors(torch.zeros(4, 2), torch.ones(2, 6))),
        ):
            assert (found.rank, found.effective_rank, found.stable_rank, found.norm) == (0, 0, 0, 0)


class TestNoise:
    @pytest.mark.parametrize("share", [1e-2, 1e-3, 1e-4])
    def test_rounding_of_the_stored_weight_is_no_rank(self, share):
        """A true rank of 24 read back from float32 weights: a tolerance relative to σ₁ finds up to 252."""
        before = torch.randn(256, 256, generator=generator(0))
        change = product(random_sum([1.0] * 24, (256, 256))) * share * float(before.norm()) / math.sqrt(24)
        after = (before.double() + change).float()
        read_back = after.double() - before.double()
        assert spectrum_of_matrix(read_back, stored=before).rank == 24
        values = torch.linalg.svdvals(read_back)
        if share < 1e-2:
            assert int((values > 1e-6 * values[0]).sum()) > 200

    @pytest.mark.parametrize("share", [1e-3, 1e-4, 1e-5, 3e-6])
    def test_rounding_of_the_stored_weight_is_no_effective_rank(self, share):
        """One direction read back from float32 weights: with its rounding it would be up to 5."""
        before = torch.randn(256, 256, generator=generator(0))
        change = product(random_sum([1.0], (256, 256))) * share * float(before.norm())
        after = (before.double() + change).float()
        found = spectrum_of_matrix(after.double() - before.double(), stored=before)
        assert found.rank == 1
        assert found.effective_rank == pytest.approx(1)

    def test_coarser_storage_has_more_noise(self):
        weight = torch.randn(30, 20, generator=generator(1))
        fine, coarse = rounding_noise(weight), rounding_noise(weight.bfloat16())
        assert coarse == pytest.approx(fine * 2**16, rel=0.01)

    def test_the_bound_holds_for_real_rounding(self):
        weight = torch.randn(200, 300, generator=generator(2), dtype=torch.float64)
        for precision in (torch.float32, torch.bfloat16):
            stored = weight.to(precision)
            largest = float(torch.linalg.svdvals(weight - stored.double())[0])
            assert largest < rounding_noise(stored) < 100 * largest

    def test_bfloat16_hides_a_small_change(self):
        before = torch.randn(64, 64, generator=generator(3)).bfloat16()
        after = (before.double() + 1e-3 * product(random_sum([1.0], (64, 64)))).bfloat16()
        assert spectrum_of_matrix(after.double() - before.double(), stored=before).rank == 0


class TestProperties:
    @settings(deadline=None, max_examples=60)
    @given(factors())
    def test_factors_and_matrix_agree_with_the_library(self, change):
        exact = torch.linalg.svdvals(product(change))
        for found in (spectrum_of_factors(change), spectrum_of_matrix(product(change))):
            count = min(len(exact), len(found.values))
            assert torch.allclose(found.values[:count], exact[:count], atol=1e-6 * float(exact[0]))
            assert float(exact[count:].sum()) <= 1e-9 * float(exact[0])

    @settings(deadline=None, max_examples=60)
    @given(factors())
    def test_ranks_are_ordered(self, change):
        found = spectrum_of_factors(change)
        assert 1 <= found.stable_rank <= found.rank + 1e-9
        assert 1 <= found.effective_rank <= found.rank + 1e-6
        assert found.rank <= min(change.b.shape[1], *change.shape)

    @settings(deadline=None, max_examples=40)
    @given(factors(), st.floats(0.01, 100))
    def test_scale_changes_only_the_norm(self, change, scale):
        once, scaled = (spectrum_of_factors(Factors(change.b, change.a, by)) for by in (1.0, scale))
        assert scaled.rank == once.rank
        assert scaled.effective_rank == pytest.approx(once.effective_rank)
        assert scaled.norm == pytest.approx(scale * once.norm)

    @settings(deadline=None, max_examples=40)
    @given(factors(), factors())
    def test_a_sum_of_changes_is_the_sum_of_their_products(self, first, second):
        if first.shape != second.shape:
            with pytest.raises(BadInputError, match="changes must be of one weight"):
                summed([first, second])
            return
        assert torch.allclose(product(summed([first, second])), product(first) + product(second))


class TestDirections:
    @pytest.mark.parametrize("shape", [(30, 50), (50, 30)])
    def test_both_ways_span_the_same_space(self, shape):
        change = with_values([4.0, 2.0, 1.0], shape)
        ours, dense = directions(change, 3), directions(product(change), 3)
        assert overlap(ours, dense) == pytest.approx(1)
        assert torch.allclose(ours.mT @ ours, torch.eye(3, dtype=torch.float64))
        assert torch.allclose(dense.mT @ dense, torch.eye(3, dtype=torch.float64))

    def test_planted_directions_are_found_in_order(self):
        change = with_values([4.0, 2.0], (20, 30))
        assert overlap(directions(change, 1), change.b[:, :1] / 4) == pytest.approx(1)
        assert overlap(directions(change, 1), change.b[:, 1:] / 2) == pytest.approx(0, abs=1e-12)

    def test_half_of_the_space_kept_is_an_overlap_of_half(self):
        basis = orthonormal(20, 6, 0)
        assert overlap(basis[:, :4], basis[:, 2:]) == pytest.approx(0.5)

    def test_random_directions_overlap_by_chance_alone(self):
        chance = [overlap(orthonormal(100, 10, seed), orthonormal(100, 10, seed + 50)) for seed in range(20)]
        assert sum(chance) / 20 == pytest.approx(0.1, rel=0.1)

    def test_more_directions_than_rank_are_refused(self):
        for change in (with_values([1.0, 1.0], (8, 9)), product(with_values([1.0, 1.0], (8, 9)))):
            with pytest.raises(BadInputError, match="count must be between 1 and the rank of the change, 2, got 3"):
                directions(change, 3)


class TestNullModel:
    def test_terms_have_the_given_norms(self):
        null = random_sum([3.0, 0.5], (40, 50))
        assert null.b.norm(dim=0).tolist() == pytest.approx([3.0, 0.5])
        assert null.a.norm(dim=1).tolist() == pytest.approx([1, 1])

    @pytest.mark.parametrize(("count", "rank"), [(1, 1), (7, 7), (16, 16), (40, 16)])
    def test_rank_is_the_number_of_terms_up_to_the_smaller_side(self, count, rank):
        assert spectrum_of_factors(random_sum([1.0] * count, (16, 24))).rank == rank

    def test_seeds_differ_and_repeat(self):
        one, again, other = (random_sum([1.0], (5, 6), seed=seed).b for seed in (0, 0, 1))
        assert torch.equal(one, again)
        assert not torch.equal(one, other)


def test_factors_that_do_not_fit_are_refused():
    with pytest.raises(BadInputError, match=r"B must be out × rank and A rank × in, got \(4, 2\), \(3, 5\)"):
        Factors(torch.zeros(4, 2), torch.zeros(3, 5))


def test_factors_are_ten_times_faster_than_a_decomposition_and_as_exact():
    """At a fifth of 12b's size; at 3840×15360 and rank 128 the gain is larger by far."""
    change = random_sum([1.0] * 24, (768, 3072))
    dense, found = product(change).float(), {}

    def seconds(name, decompose):
        start = time.process_time()
        found[name] = decompose()
        return time.process_time() - start

    ratio = compare(
        lambda: seconds("svd", lambda: torch.linalg.svd(dense, full_matrices=False).S),
        lambda: seconds("ours", lambda: spectrum_of_factors(change).values),
        rounds=2,
    ).ratio
    assert ratio.low > 10
    assert torch.allclose(found["ours"], found["svd"][:24].double(), atol=1e-5 * float(found["ours"][0]))


class TestSketch:
    """Matrices large enough for a sketch, of few directions and of many."""

    SHAPE = (512, 640)

    def sketch_is_taken(self, matrix, stored=None):
        return spectrum._sketched(matrix.double(), rounding_noise(matrix if stored is None else stored)) is not None

    @pytest.mark.parametrize("shape", [SHAPE, SHAPE[::-1]])
    @pytest.mark.parametrize("values", [[2.0] * 20, [1.0, 1e-2, 1e-4, 1e-6]])
    def test_few_directions_have_the_values_of_the_decomposition(self, shape, values):
        for matrix in (product(with_values(values, shape)), product(with_values(values, shape)).float()):
            assert self.sketch_is_taken(matrix)
            found = spectrum_of_matrix(matrix)
            assert found.values[: len(values)].tolist() == pytest.approx(values, rel=1e-5, abs=found.noise)
            assert found.rank == sum(value > found.noise for value in values)
            assert len(found.values) == min(shape)
            assert found.norm == pytest.approx(float(matrix.double().norm()), rel=1e-9)

    def test_more_directions_than_a_sketch_has_are_left_to_the_gram_matrix(self):
        flat, tail = with_values([1.0] * 40, self.SHAPE), with_values([1.0, *[1e-3] * 60], self.SHAPE)
        for change, rank in ((flat, 40), (tail, 61)):
            assert not self.sketch_is_taken(product(change))
            assert spectrum_of_matrix(product(change)).rank == rank

    def test_one_direction_that_no_random_vector_shows_is_still_missed_by_none(self, monkeypatch):
        """Random vectors at right angles to a direction hide it from the sketch; the check against the matrix sees."""
        change = with_values([1.0, 0.1], self.SHAPE)
        hidden = change.a[1:]
        drawn = torch.randn

        def blind(*size, **more):
            vectors = drawn(*size, **more).double()
            return vectors - hidden.mT @ (hidden @ vectors)

        monkeypatch.setattr(torch, "randn", blind)
        assert not self.sketch_is_taken(product(change))
        assert spectrum_of_matrix(product(change)).rank == 2

    def test_both_routes_agree_where_the_rounding_of_weights_is_in_the_change(self, monkeypatch):
        before = torch.randn(*self.SHAPE, generator=generator(0)) * 1e-3
        change = (before.double() + product(random_sum([1.0] * 8, self.SHAPE))).float().double() - before.double()
        assert self.sketch_is_taken(change, stored=torch.ones(1))
        sketched = spectrum_of_matrix(change, stored=torch.ones(1, 1))
        monkeypatch.setattr(spectrum, "_LEAST_SKETCHED_SIDE", 10_000)
        whole = spectrum_of_matrix(change, stored=torch.ones(1, 1))
        assert sketched.rank == whole.rank == 8
        assert sketched.effective_rank == pytest.approx(whole.effective_rank, rel=1e-4)
        assert overlap(directions(change, 8), directions(change.mT.clone().mT, 8)) == pytest.approx(1)
