"""A model of a stack is the transformers class on the same weights, forward and backward, alone or among others."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from gemma_bench.core.errors import BadInputError
from gemma_bench.training.stack.blocks import losses, token_nats, unpack
from gemma_bench.training.stack.exchange import to_transformers
from gemma_bench.training.stack.operations import TORCH
from gemma_bench.training.stack.shape import Shape, gpt2, random_weights


def test_costs_are_those_of_transformers_on_the_same_weights(shape, stack, ops):
    weights, tokens = stack
    costs = token_nats(weights, tokens, shape, ops)
    for row, text, found in zip(weights, tokens, costs, strict=True):
        logits = to_transformers(row, shape)(input_ids=text[:, :-1]).logits
        expected = cross_entropy(logits.transpose(1, 2), text[:, 1:], reduction="none")
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_gradients_are_those_of_transformers(shape, stack, ops):
    weights, tokens = stack
    leaf = weights.clone().requires_grad_()
    found = losses(leaf, tokens, shape, ops, torch.float32)
    (gradient,) = torch.autograd.grad(found.sum(), leaf)
    for row, text, loss, mine in zip(weights, tokens, found, gradient, strict=True):
        model = to_transformers(row, shape)
        logits = model(input_ids=text[:, :-1]).logits
        expected = cross_entropy(logits.transpose(1, 2), text[:, 1:])
        expected.backward()
        torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
        assert sum(p.numel() for p in model.parameters()) == shape.parameter_count
        norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
        torch.testing.assert_close(mine.norm(), norm, atol=1e-5, rtol=1e-4)
        embedding = unpack(mine[None], shape)["embedding"][0]
        torch.testing.assert_close(embedding, model.get_input_embeddings().weight.grad, atol=1e-5, rtol=1e-4)


def test_c_and_torch_give_the_same_gradient_of_every_weight(shape, stack, ops):
    weights, tokens = stack
    gradients = []
    for which in (ops, TORCH):
        leaf = weights.clone().requires_grad_()
        gradients += torch.autograd.grad(losses(leaf, tokens, shape, which, torch.float32).sum(), leaf)
    torch.testing.assert_close(*gradients, atol=2e-6, rtol=1e-4)


def test_a_model_does_not_notice_its_neighbours(shape, stack, ops):
    weights, tokens = stack
    disturbed = weights.clone()
    disturbed[::2] *= 3
    alone, among = (token_nats(stacked, tokens, shape, ops)[1] for stacked in (weights, disturbed))
    assert torch.equal(alone, among)


def test_later_tokens_change_no_earlier_cost(shape, stack, ops):
    weights, tokens = stack
    changed = tokens.clone()
    changed[:, :, -4:] = (changed[:, :, -4:] + 1) % shape.symbols
    before, after = (token_nats(weights, text, shape, ops)[:, :, :-4] for text in (tokens, changed))
    assert torch.equal(before, after)


def test_bfloat16_is_near_float32(shape, stack):
    weights, tokens = stack
    exact, rounded = (losses(weights, tokens, shape, TORCH, dtype) for dtype in (torch.float32, torch.bfloat16))
    assert 0 < (exact - rounded).abs().max() < 0.1


def test_the_published_smallest_row_has_its_parameters():
    assert gpt2(32, 1, symbols=2048, length=64, heads=4).parameter_count == 80_352


def test_weights_are_a_function_of_the_seed(shape):
    assert torch.equal(random_weights(shape, 3), random_weights(shape, 3))
    assert not torch.equal(random_weights(shape, 3), random_weights(shape, 4))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (("bert", 64, 16, 16, 1, 2, 2, 8, 40), "unknown style 'bert'"),
        (("gemma3", 1, 16, 16, 1, 2, 2, 8, 40), "symbols must be at least 2, got 1"),
        (("gemma3", 64, 0, 16, 1, 2, 2, 8, 40), "length must be at least 1, got 0"),
        (("gemma3", 64, 16, 16, 1, 3, 2, 8, 40), "heads must be a multiple of groups"),
        (("gemma3", 64, 16, 16, 1, 2, 2, 7, 40), "head_width must be even"),
        (("gpt2", 64, 16, 16, 1, 3, 3, 8, 40), "gpt2 needs groups = heads"),
    ],
)
def test_a_shape_that_cannot_be_built_is_refused(fields, message):
    with pytest.raises(BadInputError, match=message):
        Shape(*fields)
