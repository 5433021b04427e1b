"""The passes of set block decoding in torch: transformers' `Gemma3ForCausalLM`, unchanged.

Its decoder takes a dict of masks in place of its own, and any object with `update` as a cache.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gemma_bench.core.errors import BadInputError
from gemma_bench.methods.few_rows import few_row_products
from gemma_bench.methods.set_block_passes import BlockMasks, Ids, Readout

MaskTensors = dict[str, Bool[Tensor, "batch 1 query key"]]


class TorchBlockCache:
    """Keys and values in fixed places: a pass writes behind what is kept, and only its finished tokens stay.

    All layers have room for the whole text; a local layer hands out what its window can reach.
    """

    def __init__(self, model: Any, padding: Int[np.ndarray, " batch"], room_tokens: int) -> None:
        """Reserve the room; memory is taken as it is written."""
        config = model.config
        self.model, self.padding, self.kept_tokens, self.room_tokens = model, padding, 0, room_tokens
        self.window, self.layer_types = config.sliding_window, config.layer_types
        shape = (2, len(padding), config.num_key_value_heads, room_tokens, config.head_dim)
        self.rooms = [torch.empty(shape, dtype=model.dtype, device=model.device) for _ in config.layer_types]
        self._masks: MaskTensors = {}
        self._masks_of: tuple[int, int, int] | None = None
        self._first_local_slot = 0
        self.rows: Int[Tensor, " row"] | None = None

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any) -> tuple[Tensor, Tensor]:
        """Write a layer's keys and values behind what is kept and return all that this pass may see.

        A pass of some rows only keeps nothing, so that there is nothing to write.
        """
        room, start = self.rooms[layer_idx], self.kept_tokens
        first = self._first_local_slot if self.layer_types[layer_idx] == "sliding_attention" else 0
        if self.rows is not None:
            before = room[:, self.rows, :, first:start]
            return torch.cat((before[0], keys), dim=2), torch.cat((before[1], values), dim=2)
        stop = start + keys.shape[2]
        room[0, :, :, start:stop] = keys
        room[1, :, :, start:stop] = values
        return room[0, :, :, first:stop], room[1, :, :, first:stop]

    def get_seq_length(self, *_: Any) -> int:
        """Return how many tokens are kept."""
        return self.kept_tokens

    def masks(self, finished: int, block: int) -> MaskTensors:
        """Return the masks of the pass to come; those of a block but for its first pass are the same."""
        key = (self.kept_tokens, finished, block)
        if key != self._masks_of:
            masks = BlockMasks.of_pass(self, finished, block, self.window)
            device = self.model.device
            self._masks = {
                "full_attention": torch.from_numpy(masks.full_attention).to(device),
                "sliding_attention": torch.from_numpy(masks.sliding_attention).to(device),
            }
            self._masks_of, self._first_local_slot = key, masks.first_local_slot
        if self.rows is None or not self.padding.any():
            return self._masks
        return {kind: mask[self.rows] for kind, mask in self._masks.items()}


class TorchPasses:
    """See `Passes`; takes a `Gemma3ForCausalLM`, bare or with adapters, on any device."""

    def __init__(self, model: Any, mask_token: int) -> None:
        """Wrap a model in evaluation mode whose token `mask_token` stands for a hidden one."""
        self.model, self.mask_token, config = model, mask_token, model.config
        self.vocabulary_size, self.context_tokens = config.vocab_size, config.max_position_embeddings
        if not 0 <= mask_token < self.vocabulary_size:
            raise BadInputError(f"mask token must be between 0 and {self.vocabulary_size - 1}, got {mask_token}")
        self.few_rows = few_row_products(model)

    def new_cache(self, padding: Int[np.ndarray, " batch"], room_tokens: int) -> TorchBlockCache:
        """Return an empty cache."""
        return TorchBlockCache(self.model, padding, room_tokens)

    @torch.inference_mode()
    def read(
        self, cache: TorchBlockCache, finished: Ids, block: Ids, is_masked: Bool[np.ndarray, "batch position"]
    ) -> Readout:
        """Read finished tokens and a block behind them."""
        return readout(self.masked_logits(cache, finished, block, is_masked), self.mask_token)

    def masked_logits(
        self, cache: TorchBlockCache, finished: Ids, block: Ids, is_masked: Bool[np.ndarray, "batch position"]
    ) -> Float[Tensor, "masked vocab"]:
        """Read as `read` does and return the logits of the masked tokens.

        Rows of a batch without any are left out, unless there are finished tokens to keep.
        """
        rows = np.flatnonzero(is_masked.any(axis=1))
        if finished.shape[1] == 0 and 0 < len(rows) < len(is_masked):
            is_masked = is_masked[rows]
            hidden = self.hidden(cache, finished, block, torch.from_numpy(rows).to(self.model.device))
        else:
            hidden = self.hidden(cache, finished, block)
        masked = hidden[:, finished.shape[1] :][torch.from_numpy(is_masked).to(hidden.device)]
        with self.few_rows():
            logits: Tensor = self.model.get_output_embeddings()(masked)
        return logits

    @torch.inference_mode()
    def logits(self, cache: TorchBlockCache, finished: Ids, block: Ids) -> Float[np.ndarray, "batch position vocab"]:
        """Return the logits of all tokens of a pass."""
        logits: np.ndarray = (
            self.model.get_output_embeddings()(self.hidden(cache, finished, block)).float().cpu().numpy()
        )
        return logits

    def kept(self, cache: TorchBlockCache) -> list[Float[np.ndarray, "2 batch head token width"]]:
        """Return the keys and values that a cache keeps."""
        return [room[:, :, :, : cache.kept_tokens].float().cpu().numpy() for room in cache.rooms]

    def hidden(
        self, cache: TorchBlockCache, finished: Ids, block: Ids, rows: Int[Tensor, " row"] | None = None
    ) -> Float[Tensor, "batch position hidden"]:
        """Return the last hidden states of finished tokens and block, of some rows if they have no finished tokens.

        The cache keeps the finished ones.
        """
        ids = np.concatenate((finished, block), axis=1)
        position = np.arange(cache.kept_tokens, cache.kept_tokens + ids.shape[1])[None] - cache.padding[:, None]
        told = [torch.from_numpy(array).to(self.model.device) for array in (ids, position.clip(min=0))]
        cache.rows = rows
        tokens, positions = told if rows is None else [array[rows] for array in told]
        with self.few_rows():
            output = self.model.get_decoder()(
                input_ids=tokens,
                position_ids=positions,
                attention_mask=cache.masks(finished.shape[1], block.shape[1]),
                past_key_values=cache,
                use_cache=True,
            )
        cache.kept_tokens += finished.shape[1]
        states: Tensor = output.last_hidden_state
        return states


def readout(logits: Float[Tensor, "masked vocab"], mask_token: int) -> Readout:
    """Turn logits into entropies in nats and confidences; the mask token itself is never to be written."""
    logits = logits.float()
    logits[:, mask_token] = torch.finfo(torch.float32).min
    lower = logits - logits.amax(dim=1, keepdim=True)
    weights = lower.exp()
    total = weights.sum(dim=1)
    entropies = total.log() - torch.linalg.vecdot(weights, lower) / total
    figures = torch.stack((entropies.clamp(min=0), 1 / total)).cpu().numpy()
    return Readout(
        entropies_nats=figures[0],
        confidences=figures[1],
        logits=lambda chosen: logits[torch.from_numpy(chosen).to(logits.device)].cpu().numpy(),
    )
