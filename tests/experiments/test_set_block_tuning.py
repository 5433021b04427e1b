"""Tuning the real model: known losses of hidden tokens, and a trained model in its own precision again."""

import math

import pytest
import torch

from gemma_bench.experiments.set_block_tuning import SET_BLOCK, Tuning, evaluation_copy, masked_nats, tune_both
from gemma_bench.models.loading import load
from gemma_bench.training.corpus import Corpus

TUNING = Tuning(length_tokens=16, batch_size=2, steps=2, budget_s=60, lora_rank=2)
ROWS = torch.randint(6, 262, (12, 16), generator=torch.Generator().manual_seed(0))


def test_a_model_that_knows_nothing_pays_the_whole_alphabet(tiny):
    """With an embedding of zeros every logit is 0: a hidden token costs ln 262 in however many batches."""
    model = load(tiny, "torch", "cpu", "float32").model
    torch.nn.init.zeros_(model.get_input_embeddings().weight)
    for batch_rows in (3, 12):
        assert masked_nats(model, ROWS, TUNING, batch_rows) == pytest.approx(math.log(262), rel=1e-5)


@pytest.mark.parametrize("lora_rank", [None, 2])
def test_a_trained_model_is_plain_and_as_precise_as_the_loaded_one(tiny, lora_rank):
    """Rotations stay float32: rounding them moves every position. The loaded model itself is left as it was."""
    backend = load(tiny, "torch", "cpu", "bfloat16")
    before = {name: weight.clone() for name, weight in backend.model.named_parameters()}
    corpus, seen = Corpus(ROWS.flatten(), ROWS.flatten()), []
    tuning = TUNING.model_copy(update={"lora_rank": lora_rank})
    models, runs = tune_both(backend, corpus, tuning, lambda what, *_: seen.append(what), None)
    assert runs[SET_BLOCK].steps_count == runs["next token"].steps_count == 2
    for model in models.values():
        assert type(model) is type(backend.model)
        assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
        assert {buffer.dtype for name, buffer in model.named_buffers() if "inv_freq" in name} == {torch.float32}
        assert any(not torch.equal(weight, before[name]) for name, weight in model.named_parameters())
    assert all(torch.equal(weight, before[name]) for name, weight in backend.model.named_parameters())
    assert set(seen) == {"training: set block", "training: next token"}


def test_a_plain_model_is_its_own_evaluation_copy(tiny):
    backend = load(tiny, "torch", "cpu", "float32")
    assert evaluation_copy(backend.model, backend) is backend.model
