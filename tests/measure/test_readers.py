"""Every instrument: a known answer, a zero on a control, an error of the right size."""

import numpy as np
import pytest
import torch

from gemma_bench.core.errors import BadInputError
from gemma_bench.measure.activations import has_finite_logits, residual_peaks
from gemma_bench.measure.agreement import agreement
from gemma_bench.measure.cost import bandwidth_share_percent, ceiling_tokens_per_s
from gemma_bench.measure.influence import influence
from gemma_bench.measure.likelihood import log_probabilities, perplexity, token_nats
from gemma_bench.measure.storage import cache_differences, matrix_bits
from gemma_bench.models.catalog import TINY
from gemma_bench.models.convert_mlx import convert
from gemma_bench.models.loading import load
from gemma_bench.models.tiny import random_folder

TOKENS = list(range(30, 60))


@pytest.fixture
def ignorant(tiny):
    """A model whose head is zero: every token is equally likely."""
    backend = load(tiny, "torch", "cpu")
    backend.model.model.norm.weight.data.fill_(-1)  # the norm multiplies by 1 + weight
    return backend


class TestInfluence:
    def test_a_token_influences_itself_and_later_ones_never_earlier_ones(self, backend):
        found = influence(backend, TOKENS, 4)
        assert (found[:4] == 0).all()
        assert (found[4:] > 0).all()


class TestLikelihood:
    def test_a_model_that_knows_nothing_has_the_vocabulary_for_perplexity(self, ignorant):
        assert perplexity(ignorant, TOKENS) == pytest.approx(TINY.vocab_size, rel=1e-6)

    def test_probabilities_sum_to_one_at_every_position(self, backend):
        (chunk,) = log_probabilities(backend, TOKENS)
        assert np.exp(chunk).sum(axis=-1) == pytest.approx(1, abs=1e-5)

    def test_reading_in_chunks_changes_nothing(self, backend, monkeypatch):
        whole = token_nats(backend, TOKENS)
        monkeypatch.setattr("gemma_bench.measure.likelihood._CHUNK_TOKENS", 7)
        assert token_nats(backend, TOKENS) == pytest.approx(whole, abs=1e-4)
        assert len(whole) == len(TOKENS) - 1

    def test_the_likelier_text_has_the_lower_perplexity(self, backend):
        greedy = list(TOKENS)
        for _ in range(10):
            greedy.append(int(backend.numpy(backend.logits([greedy], last_only=True))[0, -1].argmax()))
        other = greedy[:-10] + [(token + 1) % TINY.vocab_size for token in greedy[-10:]]
        assert perplexity(backend, greedy) < perplexity(backend, other)

    def test_one_token_has_no_likelihood(self, backend):
        with pytest.raises(BadInputError, match="at least 2 tokens, got 1"):
            perplexity(backend, [2])


class TestAgreement:
    def test_a_model_agrees_with_itself(self, backend):
        found = agreement(backend, backend, TOKENS)
        assert found.kl_nats.max() < 1e-6
        assert found.same_choice.mean() == 1

    def test_divergence_from_ignorance_is_what_the_model_knows(self, tiny, ignorant):
        """KL(p ‖ uniform) = log V − H(p)."""
        model = load(tiny, "torch", "cpu")
        (ours,) = log_probabilities(model, TOKENS)
        entropy = -(np.exp(ours) * ours).sum(axis=-1)
        assert agreement(model, ignorant, TOKENS).kl_nats == pytest.approx(np.log(TINY.vocab_size) - entropy, abs=1e-4)

    def test_other_weights_are_far_away(self, tiny, tmp_path):
        other = random_folder(tmp_path / "other", TINY, seed=1)
        found = agreement(load(tiny, "torch", "cpu"), load(other, "torch", "cpu"), TOKENS)
        assert np.median(found.kl_nats) > 0.1


class TestActivations:
    def test_peaks_are_those_of_transformers_own_hidden_states(self, tiny):
        backend = load(tiny, "torch", "cpu")
        with torch.no_grad():
            states = backend.model(torch.tensor([TOKENS]), output_hidden_states=True).hidden_states
        expected = [float(state.abs().max()) for state in states[1:-1]]  # the last is taken after the final norm
        peaks = residual_peaks(backend, TOKENS)
        assert peaks[:-1] == pytest.approx(expected)
        assert len(peaks) == TINY.num_hidden_layers

    def test_a_weight_beyond_float16_leaves_no_finite_logits(self, tiny):
        backend = load(tiny, "torch", "cpu", "float16")
        assert has_finite_logits(backend, TOKENS)
        backend.model.model.layers[0].post_feedforward_layernorm.weight.data.fill_(60_000)
        assert not has_finite_logits(backend, TOKENS)


class TestStorage:
    @pytest.mark.parametrize(
        ("bits", "group_size", "expected"), [(4, 64, 4.5), (4, 32, 5.0), (8, 64, 8.5), (16, 64, 16.0)]
    )
    def test_bits_of_every_matrix(self, tiny, tmp_path, bits, group_size, expected):
        assert set(matrix_bits(convert(tiny, bits, group_size, tmp_path / "converted")).values()) == {expected}

    def test_an_unquantised_matrix_costs_its_type(self, tiny):
        assert set(matrix_bits(tiny).values()) == {32.0}

    def test_a_cache_holds_its_window_and_a_wider_claim_is_off_by_what_it_adds(self, backend):
        kept = TINY.sliding_window - (backend.name == "torch")
        assert kept == backend.kept_tokens(100)
        assert cache_differences(backend, 12, kept) == [0] * 12
        per_token = 5 * 2 * TINY.num_key_value_heads * TINY.head_dim * 4
        assert cache_differences(backend, 12, kept + 1)[-1] == -per_token


def test_bandwidth_and_ceiling_are_two_sides_of_one_figure():
    ceiling = ceiling_tokens_per_s(6.62e9, 819e9)
    assert ceiling == pytest.approx(123.7, abs=0.1)
    assert bandwidth_share_percent(6.62e9, ceiling, 819e9) == pytest.approx(100)
