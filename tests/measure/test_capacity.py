"""The capacity meter: zero for who knows nothing, every bit for who holds all, and the laws in between."""

from math import log, log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemma_bench.core.errors import BadInputError, InvalidRunError
from gemma_bench.measure.capacity import memory, sequence_bits, uniform
from gemma_bench.measure.holding import HoldingModel
from gemma_bench.measure.likelihood import from_log_probabilities, of_backend, token_nats
from gemma_bench.models.catalog import TINY
from gemma_bench.models.loading import load

VOCAB, START = 16, 15


def drawn(count, length, seed=0, vocab=VOCAB - 1):
    return np.random.default_rng(seed).integers(0, vocab, (count, length))


def holder(held):
    return of_backend(HoldingModel(held, VOCAB, START))


class TestKnownAnswers:
    @pytest.mark.parametrize("count", [1, 2, 50])
    def test_who_holds_the_set_saves_all_but_which_one_comes(self, count):
        data = drawn(count, 12)
        found = memory(holder(data), uniform(VOCAB), [data])
        assert found.saved_bits == pytest.approx(count * (12 * log2(VOCAB) - log2(count)), rel=1e-9)
        assert found.memorised_bits == pytest.approx(found.ceiling_bits, rel=1e-9)
        assert found.data_bits == pytest.approx(count * 12 * 4)
        assert found.predicted_tokens_count == count * 12

    def test_who_knows_the_law_and_no_more_saves_nothing(self):
        found = memory(uniform(VOCAB), uniform(VOCAB), [drawn(20, 8)])
        assert (found.saved_bits, found.memorised_bits) == (0, 0)

    def test_a_given_first_token_costs_and_saves_nothing(self):
        data = drawn(200, 6)
        model = HoldingModel(data, VOCAB, START)

        def given_first(tokens):
            return of_backend(model)(tokens)[:, 1:]

        found = memory(given_first, uniform(VOCAB), [data])
        counts = np.bincount(data[:, 0])
        unknowable = sum(count * log2(count) for count in counts[counts > 0])
        assert found.data_bits == pytest.approx(200 * 5 * 4)
        assert found.ceiling_bits == pytest.approx(200 * 5 * 4 - unknowable)
        assert found.saved_bits == pytest.approx(found.ceiling_bits, rel=1e-9)

    def test_it_errs_by_what_a_wrong_model_errs_by(self):
        data = drawn(30, 10)
        off = memory(lambda tokens: uniform(VOCAB)(tokens) * 0.75, uniform(VOCAB), [data])
        assert off.saved_bits == pytest.approx(0.25 * off.data_bits)


class TestReferences:
    def test_a_model_saves_nothing_over_itself(self, backend):
        score = of_backend(backend)
        assert memory(score, score, [drawn(4, 8, vocab=262)]).saved_bits == 0

    def test_a_sequence_that_the_reference_codes_better_counts_for_nothing(self):
        held, other = drawn(5, 8), drawn(5, 8, seed=1)
        found = memory(holder(held), uniform(VOCAB), [np.concatenate([held, other])])
        parts = list(sequence_bits(holder(held), uniform(VOCAB), [held, other]))
        assert (parts[1].saved_bits < 0).all()
        assert found.memorised_bits == pytest.approx(parts[0].saved_bits.sum())
        assert found.saved_bits == pytest.approx(parts[0].saved_bits.sum() + parts[1].saved_bits.sum())

    def test_untrained_gemma_holds_nothing_of_random_tokens(self, backend):
        found = memory(of_backend(backend), uniform(256), [drawn(64, 16, vocab=256) + 6])
        assert found.memorised_bits < 0.005 * found.data_bits
        assert found.saved_bits < 0


class TestScores:
    def test_every_token_counts_after_a_start_token(self, backend):
        data = drawn(3, 9, vocab=262)
        alone = [token_nats(backend, [backend.tokenizer.bos_token_id, *row]) for row in data.tolist()]
        assert of_backend(backend)(data) == pytest.approx(np.stack(alone), abs=1e-4)

    def test_long_sequences_are_read_in_chunks_to_the_same_end(self, backend, monkeypatch):
        data = drawn(3, 20, vocab=262)
        whole = of_backend(backend)(data)
        monkeypatch.setattr("gemma_bench.measure.likelihood._CHUNK_TOKENS", 7)
        assert of_backend(backend)(data) == pytest.approx(whole, abs=1e-4)

    def test_any_function_to_log_probabilities_serves(self):
        data = drawn(5, 7)
        uniform_function = from_log_probabilities(lambda tokens: np.full((*tokens.shape, VOCAB), -log(VOCAB)))
        found = memory(uniform_function, uniform(VOCAB), [data])
        assert found.predicted_tokens_count == 5 * 6
        assert found.saved_bits == pytest.approx(0, abs=1e-9)

    def test_torch_and_mlx_read_the_same_memory(self, tiny):
        data = drawn(4, 8, vocab=262)
        read = [memory(of_backend(load(tiny, library, "cpu")), uniform(262), [data]) for library in ("torch", "mlx")]
        assert read[0].saved_bits == pytest.approx(read[1].saved_bits, rel=1e-4)


class TestStreams:
    def test_data_are_read_once_and_never_kept(self):
        alive = []

        def batches():
            for seed in range(50):
                alive.append(seed)
                yield drawn(10, 6, seed)

        found = memory(uniform(VOCAB), uniform(VOCAB), batches())
        assert found.sequences_count == 500
        assert len(alive) == 50

    @settings(max_examples=25, deadline=None)
    @given(st.integers(1, 40), st.integers(1, 8), st.integers(0, 9), st.integers(1, 7))
    def test_batches_change_nothing_and_no_model_passes_the_ceiling(self, count, length, seed, cuts):
        data = drawn(count, length, seed)
        model = holder(drawn(count, length, seed + 1) if seed % 2 else data)
        whole = memory(model, uniform(VOCAB), [data])
        parts = memory(model, uniform(VOCAB), np.array_split(data, min(cuts, count)))
        assert parts.saved_bits == pytest.approx(whole.saved_bits, abs=1e-6)
        assert parts.ceiling_bits == pytest.approx(whole.ceiling_bits)
        if len(np.unique(data, axis=0)) == count:
            assert whole.saved_bits <= whole.ceiling_bits + 1e-6

    @settings(max_examples=25, deadline=None)
    @given(st.floats(0.1, 3.0), st.integers(1, 30))
    def test_savings_of_two_halves_add_up(self, factor, count):
        def model(tokens):
            return uniform(VOCAB)(tokens) * factor

        first, second = drawn(count, 5, 1), drawn(count, 5, 2)
        both = memory(model, uniform(VOCAB), [first, second])
        apart = [memory(model, uniform(VOCAB), [part]) for part in (first, second)]
        assert both.saved_bits == pytest.approx(apart[0].saved_bits + apart[1].saved_bits, abs=1e-6)


class TestParameters:
    def test_a_tied_embedding_counts_once(self):
        found = memory(lambda tokens: uniform(VOCAB)(tokens) / 2, uniform(VOCAB), [drawn(10, 8)])
        untied = TINY.parameter_count + TINY.embedding_parameter_count
        assert found.bits_per_parameter(TINY.parameter_count) == found.saved_bits / TINY.parameter_count
        assert found.bits_per_parameter(TINY.parameter_count) > found.bits_per_parameter(untied)


class TestBadInput:
    def test_no_sequences(self):
        with pytest.raises(BadInputError, match="at least 1 sequence, got 0"):
            memory(uniform(VOCAB), uniform(VOCAB), [])

    @pytest.mark.parametrize("vocab", [1, 0, -3])
    def test_no_vocabulary(self, vocab):
        with pytest.raises(BadInputError, match=f"at least 2 tokens, got {vocab}"):
            uniform(vocab)

    def test_one_token_that_is_given(self):
        score = from_log_probabilities(lambda tokens: np.zeros((*tokens.shape, VOCAB)))
        with pytest.raises(BadInputError, match="at least 2 tokens where the first is given, got 1"):
            memory(score, uniform(VOCAB), [drawn(3, 1)])

    def test_nothing_is_predicted(self):
        with pytest.raises(BadInputError, match="no token is predicted in sequences of 1 tokens"):
            memory(lambda tokens: np.zeros((len(tokens), 0)), uniform(VOCAB), [drawn(3, 1)])

    def test_likelihoods_that_are_no_numbers(self):
        with pytest.raises(InvalidRunError, match="no numbers") as caught:
            memory(lambda tokens: np.full(tokens.shape, np.nan), uniform(VOCAB), [drawn(3, 4)])
        assert caught.value.rule == "diverged"

    def test_no_parameters(self):
        with pytest.raises(BadInputError, match="at least 1 parameter, got 0"):
            memory(uniform(VOCAB), uniform(VOCAB), [drawn(2, 2)]).bits_per_parameter(0)
