"""Ranks of gradients: the traps that a naive reading falls into, each with its reason."""

import pytest
import torch

from gemma_bench.core.errors import BadInputError
from gemma_bench.measure.gradient_rank import gradient_spectra, next_token_loss, projections
from gemma_bench.models.loading import load
from gemma_bench.models.tiny import random_folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load(random_folder(tmp_path_factory.mktemp("models") / "tiny"), "torch", "cpu", "float32").model.double()


def ids(rows, length, distinct=256):
    order = torch.randperm(256, generator=torch.Generator().manual_seed(0)) % distinct
    return (6 + order[: rows * length]).view(rows, length)


def ranks(model, tokens, kind):
    return [found.rank for name, found in gradient_spectra(model, tokens).items() if name.endswith(kind)]


@pytest.mark.parametrize("tokens", [2, 5, 12])
def test_feed_forward_has_a_direction_per_token_and_queries_one_less(model, tokens):
    """The first token attends to itself alone, whatever its query."""
    for kind in ("gate_proj", "up_proj", "down_proj", "o_proj", "v_proj"):
        assert ranks(model, ids(1, tokens + 1), kind) == [tokens] * 6
    assert ranks(model, ids(1, tokens + 1), "q_proj") == [tokens - 1] * 6


def test_rank_stops_at_the_smaller_side(model):
    assert ranks(model, ids(1, 101), "v_proj") == [32] * 6


def test_the_first_layer_tells_only_different_tokens_apart(model):
    few = ids(1, 33, distinct=5)
    assert max(ranks(model, few, "v_proj")[:1]) == len(set(few[0, :-1].tolist())) == 5
    assert min(ranks(model, few, "v_proj")[1:]) > 5


def test_gradients_are_those_of_backward(model):
    tokens = ids(2, 9)
    next_token_loss(model, tokens).backward()
    weights = projections(model)
    for name, found in gradient_spectra(model, tokens).items():
        assert found.norm == pytest.approx(float(weights[name].grad.norm()), rel=1e-9)
    model.zero_grad()


def test_some_layers_only(model):
    assert {name.partition(".")[0] for name in gradient_spectra(model, ids(1, 3), (1, 4))} == {"1", "4"}


def test_a_row_of_one_token_predicts_nothing(model):
    with pytest.raises(BadInputError, match=r"ids must be rows of at least 2 tokens, got shape \(3, 1\)"):
        gradient_spectra(model, ids(3, 1))
