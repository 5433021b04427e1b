"""Spectra of a change of 12b's widest matrix at rank 128: from factors, and from a matrix of a sixth of its sides."""


class Spectrum:
    """Seconds: shown, never gated on a shared machine."""

    version = "1"
    timeout = 300

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

    def track_rank_of_a_matrix(self):
        from gemma_bench.measure.spectrum import spectrum_of_matrix

        return spectrum_of_matrix(self.matrix).rank

    track_rank_of_a_matrix.unit = "rank"
