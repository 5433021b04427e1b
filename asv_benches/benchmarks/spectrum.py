"""Spectra of a change of 12b's widest matrix at rank 128: from factors, and from a matrix of a sixth of its sides."""

import time


class Spectrum:
    """Seconds: shown, never gated on a shared machine."""

    version = "1"

    def setup(self):
        from gemma_bench.measure.spectrum import random_sum

        self.factors = random_sum([1.0] * 128, (3840, 15_360))
        small = random_sum([1.0] * 128, (640, 2560))
        self.matrix = small.b @ small.a

    def time_from_factors(self):
        from gemma_bench.measure.spectrum import spectrum_of_factors

        spectrum_of_factors(self.factors)

    def time_from_a_matrix(self):
        from gemma_bench.measure.spectrum import spectrum_of_matrix

        spectrum_of_matrix(self.matrix)

    def track_rank_of_a_matrix_off_by(self):
        from gemma_bench.measure.spectrum import spectrum_of_matrix

        return abs(spectrum_of_matrix(self.matrix).rank - 128)

    track_rank_of_a_matrix_off_by.unit = "rank"


class Svd:
    """CPU time of a spectrum from factors over that of `torch.linalg.svd`, in turn, at a fifth of that width."""

    version = "1"

    def track_factors_over_svd(self):
        import torch

        from gemma_bench.measure.comparison import compare
        from gemma_bench.measure.spectrum import random_sum, spectrum_of_factors

        factors = random_sum([1.0] * 24, (768, 3072))
        dense = (factors.b @ factors.a).float()

        def seconds(work):
            start = time.process_time()
            work()
            return time.process_time() - start

        return compare(
            lambda: seconds(lambda: spectrum_of_factors(factors)),
            lambda: seconds(lambda: torch.linalg.svd(dense, full_matrices=False)),
            rounds=2,
        ).ratio.value

    track_factors_over_svd.unit = "ratio"
