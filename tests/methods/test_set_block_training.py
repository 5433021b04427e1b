"""The objective: one forward of both halves is exactly what separate ones say, and its loss is the equation's."""

import math
import weakref

import pytest
import torch
from transformers import DynamicCache, Gemma3ForCausalLM, Gemma3TextConfig

from gemma_bench.core.errors import BadInputError
from gemma_bench.methods.set_block_training import Noise, attention_masks, draw_noise, hidden_states, set_block_loss
from gemma_bench.methods.set_block_tuning import whole_blocks
from gemma_bench.models.catalog import TINY
from gemma_bench.training.data import IGNORED
from gemma_bench.training.head_loss import summed_cross_entropy

MASK, LENGTH = 4, 30
WINDOW = TINY.sliding_window


@pytest.fixture(scope="module")
def model(tiny):
    from gemma_bench.models.loading import load

    return load(tiny, "torch", "cpu", "float32").model


@pytest.fixture
def tokens():
    return torch.randint(6, TINY.vocab_size, (3, LENGTH), generator=torch.Generator().manual_seed(1))


def halves(model, clean, noisy, block_tokens):
    with torch.inference_mode():
        return [model.lm_head(hidden) for hidden in hidden_states(model, clean, noisy, block_tokens)]


def block_step(model, prefix, block):
    """The logits of a block that sees a cached causal prefix, and itself both ways."""
    read, new = prefix.shape[1], block.shape[1]
    distance = torch.arange(read, read + new)[:, None] - torch.arange(read + new)[None, :]
    full = torch.ones(1, 1, new, read + new, dtype=torch.bool)
    masks = {"full_attention": full, "sliding_attention": full & (distance.abs() < WINDOW)}
    with torch.inference_mode():
        cache = DynamicCache()
        model(input_ids=prefix, past_key_values=cache)
        return model(input_ids=block, past_key_values=cache, attention_mask=masks).logits


@pytest.mark.parametrize("block_tokens", [1, 2, 5, 16, 40])
def test_the_clean_half_is_the_model_s_own_causal_pass(model, tokens, block_tokens):
    clean, _ = halves(model, tokens, torch.full_like(tokens, MASK), block_tokens)
    with torch.inference_mode():
        alone = model(input_ids=tokens).logits
    assert (clean - alone).abs().max() < 1e-4
    assert alone.abs().max() > 1


@pytest.mark.parametrize("block_tokens", [1, 2, 5, 8, 16])
def test_every_block_of_the_noisy_half_is_the_cached_block_step(model, tokens, block_tokens):
    noisy = torch.where(draw_noise(3, LENGTH, torch.Generator().manual_seed(0)).is_masked, MASK, tokens)
    _, found = halves(model, tokens, noisy, block_tokens)
    for start in range(1, LENGTH, block_tokens):
        block = slice(start, start + block_tokens)
        assert (found[:, block] - block_step(model, tokens[:, :start], noisy[:, block])).abs().max() < 1e-4


def test_a_causal_block_or_another_window_would_be_seen(model, tokens):
    """The control of the comparison above: what it must not accept is far away."""
    noisy = torch.full_like(tokens, MASK)
    _, found = halves(model, tokens, noisy, 5)
    causal = model(input_ids=torch.cat((tokens[:, :11], noisy[:, 11:16]), dim=1)).logits[:, 11:]
    assert (found[:, 11:16] - causal).abs().max() > 0.1


def test_no_token_of_a_block_or_after_it_leaks_from_the_clean_copy(model, tokens):
    noisy = torch.full_like(tokens, MASK)
    for start in range(1, LENGTH, 5):
        changed = tokens.clone()
        changed[:, start:] = (tokens[:, start:] + 7) % TINY.vocab_size
        before, after = (halves(model, clean, noisy, 5)[1][:, start : start + 5] for clean in (tokens, changed))
        assert torch.equal(before, after)
    changed = tokens.clone()
    changed[:, 0] += 1
    assert not torch.equal(halves(model, tokens, noisy, 5)[1], halves(model, changed, noisy, 5)[1])


def test_no_noisy_token_reaches_the_clean_half_or_another_block(model, tokens):
    noisy = torch.full_like(tokens, MASK)
    changed = noisy.clone()
    changed[:, 11:16] = tokens[:, 11:16]
    (clean, blocks), (other_clean, other_blocks) = (halves(model, tokens, copy, 5) for copy in (noisy, changed))
    assert torch.equal(clean, other_clean)
    same = (blocks == other_blocks).all(dim=2).all(dim=0)
    assert same.tolist() == [not 11 <= position < 16 for position in range(LENGTH)]


def test_local_layers_see_to_the_window_s_edge_and_no_farther():
    masks = attention_masks(LENGTH, 5, WINDOW, torch.device("cpu"))
    full, local = masks["full_attention"][0, 0], masks["sliding_attention"][0, 0]
    noisy_of_21 = LENGTH + 21  # the first token of block 21 … 25
    assert full[noisy_of_21, :LENGTH].nonzero().flatten().tolist() == list(range(21))
    assert local[noisy_of_21, :LENGTH].nonzero().flatten().tolist() == list(range(21 - WINDOW + 1, 21))
    assert local[noisy_of_21, LENGTH:].nonzero().flatten().tolist() == list(range(21, 26))
    assert local[21, :LENGTH].nonzero().flatten().tolist() == list(range(21 - WINDOW + 1, 22))


def equation_14(model, row, is_masked, is_counted, k):
    """One sequence, term by term: z_t = f(x_<t ;) and ẑ = f(x_<t ; x̂_t … x̂_t+k-1) for t = 1, 1 + k, …"""
    with torch.inference_mode():
        logits = model(input_ids=row[None]).logits[0].log_softmax(-1)
    next_token = [-logits[t - 1, row[t]].item() for t in range(1, len(row)) if is_counted[t]]
    masked = []
    for start in range(1, len(row), k):
        hidden = [t for t in range(start, min(start + k, len(row))) if is_masked[t] and is_counted[t]]
        block = torch.tensor([[MASK if t in hidden else row[t] for t in range(start, min(start + k, len(row)))]])
        guess = block_step(model, row[None, :start], block)[0].log_softmax(-1)
        masked += [-guess[t - start, row[t]].item() for t in hidden]
    return next_token, masked


@pytest.mark.parametrize("block_tokens", [1, 3, 7])
def test_the_loss_is_equation_14_written_out(model, tokens, block_tokens):
    noise = Noise(draw_noise(3, LENGTH, torch.Generator().manual_seed(5)).is_masked, block_tokens)
    is_counted = torch.ones_like(tokens, dtype=torch.bool)
    is_counted[0, :9] = False
    is_counted[2, 20:] = False
    found = set_block_loss(model, tokens, noise, MASK, is_counted=is_counted, chunk_rows=7)
    terms = [equation_14(model, *rows, block_tokens) for rows in zip(tokens, noise.is_masked, is_counted, strict=True)]
    count = sum(len(next_token) for next_token, _ in terms)
    assert count == is_counted[:, 1:].sum()
    assert math.isclose(found.next_token.item(), sum(sum(row) for row, _ in terms) / count, rel_tol=1e-5)
    assert math.isclose(found.masked_token.item(), sum(sum(row) for _, row in terms) / count, rel_tol=1e-5)
    assert found.total.item() == pytest.approx(found.next_token.item() + found.masked_token.item())


def test_nothing_masked_costs_nothing_and_everything_counts_by_default(model, tokens):
    none = set_block_loss(model, tokens, Noise(torch.zeros_like(tokens, dtype=torch.bool), 4), MASK)
    assert none.masked_token == 0
    own = model(input_ids=tokens, labels=tokens).loss
    assert none.next_token.item() == pytest.approx(own.item(), rel=1e-5)


def test_gradients_reach_every_weight_as_without_chunks(tokens):
    torch.manual_seed(0)
    model = Gemma3ForCausalLM(Gemma3TextConfig(**TINY.config()))
    noise, grads = draw_noise(3, LENGTH, torch.Generator().manual_seed(0)), []
    for chunk_rows in (5, 10_000):
        model.zero_grad()
        set_block_loss(model, tokens, noise, MASK, chunk_rows=chunk_rows).total.backward()
        grads.append({name: weight.grad.clone() for name, weight in model.named_parameters()})
    for name, grad in grads[0].items():
        assert grad.abs().max() > 0
        assert torch.allclose(grad, grads[1][name], atol=1e-6), name


def test_a_model_with_adapters_trains_them_and_the_mask_row_alone(tiny, tokens):
    from peft import LoraConfig, get_peft_model

    from gemma_bench.models.loading import load

    bare = load(tiny, "torch", "cpu", "float32").model
    before = set_block_loss(bare, tokens, draw_noise(3, LENGTH, torch.Generator().manual_seed(0)), MASK)
    adapted = get_peft_model(bare, LoraConfig(r=2, target_modules="all-linear", trainable_token_indices=[MASK]))
    loss = set_block_loss(adapted, tokens, draw_noise(3, LENGTH, torch.Generator().manual_seed(0)), MASK)
    assert loss.total.item() == pytest.approx(before.total.item(), rel=1e-6)
    loss.total.backward()
    trained = {name: weight for name, weight in adapted.named_parameters() if weight.grad is not None}
    assert all("lora_" in name or "token" in name for name in trained)
    rows = [weight.grad for name, weight in trained.items() if "lora_" not in name]
    assert [row.shape[0] for row in rows] == [1]
    assert rows[0].abs().max() > 0


def test_noise_is_drawn_as_the_paper_says():
    generator = torch.Generator().manual_seed(0)
    noises = [draw_noise(4, 400, generator) for _ in range(600)]
    sizes = torch.tensor([noise.block_tokens for noise in noises])
    assert sorted(sizes.unique().tolist()) == list(range(2, 17))
    assert torch.bincount(sizes)[2:].min() > 20
    ratios = torch.cat([noise.is_masked[:, 1:].float().mean(dim=1) for noise in noises])
    assert not any(noise.is_masked[:, 0].any() for noise in noises)
    assert torch.histc(ratios, 10, 0, 1).min() > 150  # 240 each; one ratio per sequence, uniform
    again = draw_noise(4, 400, torch.Generator().manual_seed(0))
    assert torch.equal(again.is_masked, noises[0].is_masked)


@pytest.mark.parametrize("blocks", [(0, 16), (5, 4)])
def test_block_sizes_without_meaning_are_refused(blocks):
    with pytest.raises(BadInputError, match=f"got {blocks[0]} to {blocks[1]}"):
        draw_noise(1, 8, blocks=blocks)


def test_the_sum_over_chunks_is_the_sum():
    generator = torch.Generator().manual_seed(0)
    head, hidden = torch.nn.Linear(8, 50), torch.randn(23, 8, generator=generator)
    labels = torch.randint(50, (23,), generator=generator)
    whole = torch.nn.functional.cross_entropy(head(hidden), labels, reduction="sum")
    for chunk_rows in (1, 5, 23, 100):
        assert summed_cross_entropy(head, hidden, labels, chunk_rows).item() == pytest.approx(whole.item(), rel=1e-6)
    assert summed_cross_entropy(head, hidden[:0], labels[:0]) == 0


@pytest.mark.parametrize("block_tokens", [2, 5, 16])
def test_a_row_s_loss_does_not_know_where_its_answer_ends(model, tokens, block_tokens):
    """After the end stand masks to the end of the block, whatever was padded: as where a block is decoded."""
    kept = torch.tensor([17, 20])
    losses = []
    for length in (20, 23):
        labels = torch.where(torch.arange(length) < kept[:, None], tokens[:2, :length], IGNORED)
        labels[:, :5] = IGNORED
        is_masked = torch.zeros(2, length, dtype=torch.bool)
        is_masked[:, 7:15:3] = True
        batch = {
            "input_ids": tokens[:2, :length].masked_fill(torch.arange(length) >= kept[:, None], 0),
            "labels": labels,
        }
        whole, is_counted, noise = whole_blocks(batch, Noise(is_masked, block_tokens), MASK)
        assert (whole.shape[1] - 1) % block_tokens == 0
        assert all((row[end:] == MASK).all() for row, end in zip(whole, kept, strict=True))
        assert torch.equal(whole[1, :20], tokens[1, :20])
        losses.append(set_block_loss(model, whole, noise, MASK, is_counted=is_counted).total.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_no_mask_is_kept_behind_its_pass() -> None:
    """At 512 tokens each is two million bytes, at 8,192 half a billion, and training has fifteen sizes of blocks."""
    kept = weakref.ref(attention_masks(8, 3, 4, torch.device("cpu"))["full_attention"])
    assert kept() is None
