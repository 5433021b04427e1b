"""Decoding in blocks as the experiments do it: many prompts at once, the most likely tokens, chosen on the device."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict

from gemma_bench.methods.block_samplers import block_sampler
from gemma_bench.methods.set_block_decoding import SetBlock, decode
from gemma_bench.methods.set_block_passes import Ids, Readout
from gemma_bench.methods.set_block_torch import TorchBlockCache, TorchPasses, readout
from gemma_bench.methods.set_block_trace import Answer, answers

_BATCH_ROWS = 128
_PATTERNS = 3


class Setting(BaseModel):
    """One way to decode: how many tokens a block has and which of them a pass fixes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sampler: str = "entropy"
    amount: float = 0.2
    block_tokens: int = 8

    @property
    def method(self) -> SetBlock:
        """Return the decoder's own description; raises `BadInputError` for what has no meaning."""
        return SetBlock(self.block_tokens, block_sampler(self.sampler, self.amount))


def way(setting: Setting | None) -> dict[str, Any]:
    """Return what a record's row says of a way to decode; without a setting it is one token at a time."""
    if setting is None:
        return {"decoder": "next token", "block_tokens": 1, "amount": None}
    return {"decoder": setting.sampler, "block_tokens": setting.block_tokens, "amount": setting.amount}


def written_in_blocks(
    model: Any,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    setting: Setting,
    mask_token: int,
    stop_tokens: Sequence[int] = (),
) -> list[Answer]:
    """Answer all prompts, 128 at a time, each token the most likely one."""
    found = list[Answer]()
    for start in range(0, len(prompts), _BATCH_ROWS):
        passes = decode(
            _GreedyPasses(model, mask_token),
            prompts[start : start + _BATCH_ROWS],
            max_tokens,
            setting.method,
            _AsGiven(),
            stop_tokens,
        )
        found += answers(passes)
    return found


def patterns(
    prompts: Sequence[str], found: Sequence[Answer], word: Callable[[int], str]
) -> list[dict[str, str | tuple[str, ...] | tuple[int, ...]]]:
    """Return, for the first answers, the prompt, each token's text and the pass, from 1, that fixed it."""
    return [
        {"prompt": prompt, "words": tuple(map(word, answer.tokens)), "fixed_in_pass": answer.fixed_in_pass}
        for prompt, answer in zip(prompts[:_PATTERNS], found[:_PATTERNS], strict=True)
    ]


class _GreedyPasses(TorchPasses):
    """Torch's passes with the choice made on the device: a readout's logits are the chosen ids, one column wide.

    At a vocabulary of 262,144, bringing over the logits of every token would take longer than computing them.
    """

    @torch.inference_mode()
    def read(
        self, cache: TorchBlockCache, finished: Ids, block: Ids, is_masked: Bool[np.ndarray, "batch position"]
    ) -> Readout:
        """Read as `TorchPasses` does."""
        logits = self.masked_logits(cache, finished, block, is_masked)
        if not len(logits):
            return Readout(np.zeros(0), np.zeros(0), lambda _: np.zeros((0, 1)))
        figures = readout(logits, self.mask_token)
        logits[:, self.mask_token] = -torch.inf
        ids = logits.argmax(dim=1).cpu().numpy()
        return Readout(figures.entropies_nats, figures.confidences, lambda chosen: ids[chosen][:, None])

    @torch.inference_mode()
    def logits(self, cache: TorchBlockCache, finished: Ids, block: Ids) -> Float[np.ndarray, "batch 1 1"]:
        """Return the id that each row's last token makes likeliest, in place of logits."""
        last = self.hidden(cache, finished, block)[:, -1:]
        ids: np.ndarray = self.model.get_output_embeddings()(last).argmax(dim=-1, keepdim=True).cpu().numpy()
        return ids


@dataclass(frozen=True)
class _AsGiven:
    """Takes the one column that `_GreedyPasses` gives for the choice."""

    def start(self) -> Callable[[Float[np.ndarray, " one"]], int]:
        """Begin a sequence of choices."""
        return lambda row: int(row[0])
