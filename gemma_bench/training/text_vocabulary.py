"""A model cut down to the tokens of a text: of Gemma 3's 262,144 rows of embedding and head only some thousand occur.

On a CPU the head costs twice what all layers cost; a text that has no other tokens is read as well without them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from jaxtyping import Int
from torch import Tensor

from gemma_bench.training.corpus import Corpus

_SPECIAL_TOKENS = 106
"""Gemma's special and unused ids come first and keep their places, `<mask>` among them."""


@dataclass(frozen=True)
class TextVocabulary:
    """The tokens that are kept, in order of their ids: a kept token's new id is its place."""

    ids: Int[Tensor, " token"]

    @classmethod
    def of(cls, text: Corpus) -> Self:
        """Keep all tokens of a text, held out or not, and the special ones."""
        return cls(torch.cat((torch.arange(_SPECIAL_TOKENS), text.train, text.held_out)).unique())

    @classmethod
    def whole(cls, count: int) -> Self:
        """Keep all of so many tokens."""
        return cls(torch.arange(count))

    def renamed(self, text: Corpus) -> Corpus:
        """Return a text of kept tokens in their new ids."""
        train, held_out = (torch.searchsorted(self.ids, stream) for stream in (text.train, text.held_out))
        return Corpus(train, held_out)

    def cut(self, model: Any) -> None:
        """Leave a `Gemma3ForCausalLM` with the kept rows of its one matrix of embedding and head."""
        if len(self.ids) == model.config.vocab_size:
            return
        embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
        weight = torch.nn.Parameter(embedding.weight.detach()[self.ids.to(model.device)])
        embedding.weight = head.weight = weight
        embedding.num_embeddings = head.out_features = model.config.vocab_size = len(self.ids)

    def decode(self, tokenizer: Any, tokens: Sequence[int]) -> str:
        """Return the text of new ids."""
        text: str = tokenizer.decode(self.ids[list(tokens)].tolist())
        return text
