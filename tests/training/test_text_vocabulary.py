"""A model cut down to a text's tokens says of these what it said before, and knows no others."""

import torch

from gemma_bench.models.loading import load
from gemma_bench.training.corpus import Corpus
from gemma_bench.training.text_vocabulary import TextVocabulary

TEXT = Corpus(torch.tensor([200, 150, 200, 107]), torch.tensor([2, 150, 261]))


def test_logits_of_kept_tokens_stay(tiny):
    model = load(tiny, "torch", "cpu", "float32").model
    vocabulary = TextVocabulary.of(TEXT)
    assert vocabulary.ids.tolist() == [*range(106), 107, 150, 200, 261]
    renamed = vocabulary.renamed(TEXT)
    assert vocabulary.ids[renamed.train].equal(TEXT.train)
    assert vocabulary.ids[renamed.held_out].equal(TEXT.held_out)
    assert renamed.held_out[0] == 2, "special ids keep their places"
    with torch.inference_mode():
        before = model(input_ids=TEXT.train[None]).logits[..., vocabulary.ids]
        vocabulary.cut(model)
        after = model(input_ids=renamed.train[None]).logits
    assert torch.allclose(before, after, atol=1e-6)
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


def test_new_ids_have_the_old_text(tiny):
    tokenizer = load(tiny, "torch", "cpu").tokenizer
    vocabulary = TextVocabulary.of(TEXT)
    new = vocabulary.renamed(TEXT).train.tolist()
    assert vocabulary.decode(tokenizer, new) == tokenizer.decode(TEXT.train.tolist())
