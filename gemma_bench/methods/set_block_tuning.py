"""Set Block Decoding as a method of the trainer: the block objective on all weights or adapters, and its mask token."""

from dataclasses import replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from gemma_bench.core.errors import BadInputError
from gemma_bench.methods.set_block_training import LARGEST_BLOCK, SMALLEST_BLOCK, Noise, draw_noise, set_block_loss
from gemma_bench.training.data import IGNORED
from gemma_bench.training.method import Full, Lora, Options, Prepared, beside_frozen_weights
from gemma_bench.training.objective import Batch, NextToken
from gemma_bench.training.settings import Settings


class SetBlockTuning(Options):
    """The set-block objective, on all weights or, with a rank, on adapters; the model then decodes in blocks."""

    name: ClassVar[str] = "sbd"
    copies_count: ClassVar[int] = 2
    rank: int | None = Field(None, description="Rank of adapters; without it all weights are trained.")
    alpha: float | None = Field(
        None, gt=0, le=1e30, description="The adapters' scale times the rank; by default twice the rank."
    )
    mask_token: int = Field(4, ge=0, description="Id that stands for a hidden token and is in no text: <mask>.")
    smallest_block: int = Field(SMALLEST_BLOCK, ge=1, description="Fewest tokens of a block.")
    largest_block: int = Field(LARGEST_BLOCK, ge=1, description="Most tokens of a block.")

    @property
    def trains_weights(self) -> bool:
        """Without adapters."""
        return self.rank is None

    @property
    def has_adapters(self) -> bool:
        """With a rank."""
        return self.rank is not None

    def prepare(self, model: nn.Module, settings: Settings) -> Prepared:
        """Make a model ready as full-rank training or LoRA does, with another objective.

        Beside adapters the mask token's own row of the embedding is trained, which no text has used.
        """
        if self.smallest_block > self.largest_block:
            raise BadInputError(
                f"smallest block must be at most the largest, {self.largest_block}, got {self.smallest_block}"
            )
        rows: int = model.get_input_embeddings().num_embeddings  # type: ignore[operator]
        if self.mask_token >= rows:
            raise BadInputError(f"mask token must be between 0 and {rows - 1}, got {self.mask_token}")
        if self.rank is None:
            plain = Full().prepare(model, settings)
        else:
            adapted = Lora(rank=self.rank, alpha=self.alpha).attach(model, settings, self.mask_token)
            plain = beside_frozen_weights(adapted, settings)
        return replace(plain, objective=BlockObjective(self), mask_token=self.mask_token)


class BlockObjective(NextToken):
    """Equation 14 over a batch; in evaluation its next-token term alone, which compares with other methods.

    Noise comes from torch's own generator, whose state checkpoints keep.
    """

    def __init__(self, method: SetBlockTuning) -> None:
        """Take the method's blocks and mask token."""
        self.method = method

    def collate(self, rows: Any) -> Batch:
        """Make a batch; refuse one whose text contains the mask token."""
        batch = super().collate(rows)
        if (batch["input_ids"] == self.method.mask_token).any():
            raise BadInputError(
                f"token {self.method.mask_token} stands for hidden ones, but a row of the data contains it"
            )
        return batch

    def __call__(self, model: Any, batch: Batch) -> Float[Tensor, ""]:
        """Return the sum of both terms over the batch's targets."""
        if not model.training:
            return super().__call__(model, batch)
        blocks = (self.method.smallest_block, self.method.largest_block)
        sequences, length = batch["input_ids"].shape
        noise = draw_noise(sequences, length, blocks=blocks)
        tokens, is_counted, noise = whole_blocks(batch, noise, self.method.mask_token)
        loss = set_block_loss(model, tokens, noise, self.method.mask_token, is_counted=is_counted)
        return loss.total * torch.as_tensor(self.target_count(batch), device=tokens.device)


def whole_blocks(batch: Batch, noise: Noise, mask_token: int) -> tuple[Tensor, Tensor, Noise]:
    """Return tokens, which of them are counted, and the noise, with masks after the end of every row's last block.

    Decoding has masks there too: padding, or a block cut short, would tell how long the answer is.
    """
    missing = -(batch["input_ids"].shape[1] - 1) % noise.block_tokens
    is_counted = nn.functional.pad(batch["labels"] != IGNORED, (0, missing))
    is_over = is_counted.flip(1).cumsum(1).flip(1) == 0
    tokens = nn.functional.pad(batch["input_ids"], (0, missing)).masked_fill(is_over, mask_token)
    return tokens, is_counted, Noise(nn.functional.pad(noise.is_masked, (0, missing)), noise.block_tokens)
