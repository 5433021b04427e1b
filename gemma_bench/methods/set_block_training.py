"""Set Block Decoding's objective: next-token and masked-token loss in one forward of [clean ; noisy].

Source: Gat et al., Set Block Decoding, arXiv 2509.04185v1, eq. 13 and 14 and figure 9; its printed code (figure 7)
departs from them (block size 0, labels taken where nothing is masked) and is not followed.
Legend: position counts the tokens of a sequence; the forward reads them twice, under the same position ids.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from gemma_bench.core.errors import BadInputError
from gemma_bench.training.head_loss import CHUNK_ROWS, summed_cross_entropy

SMALLEST_BLOCK, LARGEST_BLOCK = 2, 16
"""Block sizes of training, each as likely as the others (section 4 of the paper)."""


@dataclass(frozen=True)
class Noise:
    """Which tokens of a batch the noisy copy hides, and how many tokens a block has.

    The first token, `<bos>`, is the prefix of the first block and never hidden: blocks begin at 1, 1 + k, 1 + 2k, …
    """

    is_masked: Bool[Tensor, "batch position"]
    block_tokens: int


class SetBlockLoss(NamedTuple):
    """The two terms of equation 14, both over the number of predicted tokens, so that their sum is the objective."""

    next_token: Tensor
    masked_token: Tensor

    @property
    def total(self) -> Tensor:
        """Return what training minimises."""
        return self.next_token + self.masked_token


def draw_noise(
    sequences: int,
    length: int,
    generator: torch.Generator | None = None,
    blocks: tuple[int, int] = (SMALLEST_BLOCK, LARGEST_BLOCK),
) -> Noise:
    """Draw a block size for the batch and a mask ratio from U(0, 1) for each sequence, on the CPU.

    Raises `BadInputError` unless 1 ≤ smallest ≤ largest block.
    """
    smallest, largest = blocks
    if not 1 <= smallest <= largest:
        raise BadInputError(f"block sizes must be between 1 and a largest one, got {smallest} to {largest}")
    block_tokens = int(torch.randint(smallest, largest + 1, (), generator=generator))
    ratio = torch.rand(sequences, 1, generator=generator)
    is_masked = torch.rand(sequences, length, generator=generator) < ratio
    is_masked[:, 0] = False
    return Noise(is_masked, block_tokens)


def attention_masks(
    length: int, block_tokens: int, window: int, device: torch.device
) -> dict[str, Bool[Tensor, "1 1 query key"]]:
    """Return, for both kinds of layers, who sees whom in [clean ; noisy] (figure 9).

    A clean token sees the clean ones up to itself and no noisy one; a noisy token sees the clean ones of earlier blocks
    and the noisy ones of its own block, both ways. Local layers see, of these, what is nearer than the window.
    """
    position = torch.arange(length, device=device)
    block = torch.div(position - 1, block_tokens, rounding_mode="floor")
    causal = position[:, None] >= position[None, :]
    earlier = block[:, None] > block[None, :]
    own = block[:, None] == block[None, :]
    near = ((position[:, None] - position[None, :]).abs() < window).tile(2, 2)
    clean_rows = torch.cat((causal, torch.zeros_like(causal)), dim=1)
    full = torch.cat((clean_rows, torch.cat((earlier, own), dim=1)))[None, None]
    return {"full_attention": full, "sliding_attention": full & near}


def set_block_loss(
    model: Any,
    tokens: Int[Tensor, "batch position"],
    noise: Noise,
    mask_token: int,
    *,
    is_counted: Bool[Tensor, "batch position"] | None = None,
    chunk_rows: int = CHUNK_ROWS,
) -> SetBlockLoss:
    """Return equation 14's two terms for a `Gemma3ForCausalLM`, bare or with adapters, on the model's device.

    The hidden state of clean token t predicts token t + 1; that of noisy token t predicts token t itself where it is
    masked. `is_counted` says which tokens are predicted at all (all but the first without it): the others, prompt and
    padding, are never hidden. Both terms are divided by the number of counted tokens; the head is applied only to rows
    that predict something.
    """
    counted = torch.ones_like(tokens, dtype=torch.bool) if is_counted is None else is_counted.clone()
    counted[:, 0] = False
    is_masked = noise.is_masked.to(tokens.device) & counted
    clean, noisy = hidden_states(model, tokens, torch.where(is_masked, mask_token, tokens), noise.block_tokens)
    head, total = model.get_output_embeddings(), counted.sum().clamp(min=1)
    following = counted[:, 1:]
    next_token = summed_cross_entropy(head, clean[:, :-1][following], tokens[:, 1:][following], chunk_rows)
    masked_token = summed_cross_entropy(head, noisy[is_masked], tokens[is_masked], chunk_rows)
    return SetBlockLoss(next_token / total, masked_token / total)


def hidden_states(
    model: Any,
    clean: Int[Tensor, "batch position"],
    noisy: Int[Tensor, "batch position"],
    block_tokens: int,
) -> tuple[Tensor, Tensor]:
    """Return the last hidden states [batch, position, hidden] of both halves of one forward of [clean ; noisy]."""
    length = clean.shape[1]
    masks = attention_masks(length, block_tokens, model.config.sliding_window, clean.device)
    position = torch.arange(length, device=clean.device)
    output = model.get_decoder()(
        input_ids=torch.cat((clean, noisy), dim=1),
        position_ids=torch.cat((position, position))[None],
        attention_mask=masks,
        use_cache=False,
    )
    first, second = output.last_hidden_state.split(length, dim=1)
    return first, second
