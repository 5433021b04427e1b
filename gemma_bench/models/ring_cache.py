"""Keys and values in fixed places: a ring of one window for a local layer, room that doubles for a global one.

Once a step has written its token, a ring holds exactly what that token may see, and no slot ever moves: steps of one
token need neither masks nor copies.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from gemma_bench.models.catalog import Size

FIRST_ROOM = 512
"""Slots that a global layer begins with."""

Kept = Float[Tensor, "batch head token width"]

Room = Float[Tensor, "2 batch head slot width"]
"""Keys, then values."""


class RingCache:
    """The rooms of all layers, and how many tokens were read into them."""

    def __init__(self, size: Size) -> None:
        """Begin empty; the rooms are made when the batch is known."""
        self.size, self.read_tokens = size, 0
        self.rooms: list[Tensor] = []

    def make_room(self, batch_size: int, tokens: int, dtype: torch.dtype) -> None:
        """See to it that `tokens` fit, the global layers' by doubling."""
        size = self.size
        for index, kind in enumerate(size.layer_types):
            if len(self.rooms) == index:
                slots = size.sliding_window if kind == "sliding_attention" else FIRST_ROOM
                shape = (2, batch_size, size.num_key_value_heads, slots, size.head_dim)
                self.rooms.append(torch.zeros(shape, dtype=dtype))
            room = self.rooms[index]
            if kind == "full_attention" and tokens > room.shape[3]:
                more = room.new_zeros(*room.shape[:3], max(tokens - room.shape[3], room.shape[3]), room.shape[4])
                self.rooms[index] = torch.cat((room, more), dim=3)

    def step(self, index: int, keys: Kept, values: Kept) -> tuple[Kept, Kept]:
        """Keep one token of a layer and return all that it may see, in any order."""
        room, slot, seen = self.rooms[index], self.read_tokens, self.read_tokens + 1
        if self.size.layer_types[index] == "sliding_attention":
            slot, seen = slot % self.size.sliding_window, min(seen, self.size.sliding_window)
        room[0, :, :, slot : slot + 1] = keys
        room[1, :, :, slot : slot + 1] = values
        return room[0, :, :, :seen], room[1, :, :, :seen]

    def extend(self, index: int, keys: Kept, values: Kept) -> tuple[Kept, Kept]:
        """Keep several tokens of a layer; return what it kept before and these, in order.

        Of a ring's old tokens come the newest window − 1, which is all that the first of the new ones may see.
        """
        room, read, new = self.rooms[index], self.read_tokens, keys.shape[2]
        both = torch.stack((keys, values))
        if self.size.layer_types[index] == "full_attention":
            room[:, :, :, read : read + new] = both
            whole = room[:, :, :, : read + new]
        else:
            window = self.size.sliding_window
            before, stored = min(read, window - 1), min(new, window)
            whole = torch.cat((room[:, :, :, torch.arange(read - before, read) % window], both), dim=3)
            room[:, :, :, torch.arange(read + new - stored, read + new) % window] = both[:, :, :, new - stored :]
        return whole[0], whole[1]

    def held_bytes(self) -> int:
        """Return the bytes of the tokens that are held, not of the room."""
        held = 0
        for room, kind in zip(self.rooms, self.size.layer_types, strict=bool(self.rooms)):
            local = kind == "sliding_attention"
            tokens = min(self.read_tokens, self.size.sliding_window) if local else self.read_tokens
            held += room.nbytes // room.shape[3] * tokens
        return held
