"""What differs between the models of a stack, and what they share in training."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from gemma_bench.core.errors import BadInputError, unknown

PRECISIONS: dict[str, tuple[torch.dtype, torch.dtype]] = {
    "float32": (torch.float32, torch.float32),
    "bfloat16": (torch.float32, torch.bfloat16),
    "pure bfloat16": (torch.bfloat16, torch.bfloat16),
}
"""What weights and moments are held in, and what the network computes in."""

_BLOCK_VISITS = 1 << 16


class Training(BaseModel):
    """What all models of a stack share: AdamW without decay, a warm-up, then a cosine down to zero.

    `clip` bounds the norm of each model's own gradient. `allows_tf32` lets CUDA round what it multiplies in float32.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch: int = 32
    warmup_steps: int = 200
    beta1: float = 0.9
    beta2: float = 0.99
    epsilon: float = 1e-8
    clip: float | None = None
    precision: str = "float32"
    allows_tf32: bool = False

    def check(self) -> None:
        """Refuse what no training could mean."""
        if self.batch < 1:
            raise BadInputError(f"batch must be at least 1, got {self.batch}")
        if self.warmup_steps < 0:
            raise BadInputError(f"warmup_steps must be at least 0, got {self.warmup_steps}")
        if self.precision not in PRECISIONS:
            raise unknown("precision", self.precision, PRECISIONS)
        if self.clip is not None and self.clip <= 0:
            raise BadInputError(f"clip must be above 0, got {self.clip}")


@dataclass(frozen=True)
class Arm:
    """One model: its seed (of weights and order of data), peak learning rate and steps; `frozen` tensors keep theirs.

    `frozen` holds beginnings of tensor names: `("0.", "embedding")` freezes the first block and the embedding.
    """

    seed: int
    rate: float
    steps: int
    frozen: tuple[str, ...] = ()

    def check(self) -> None:
        """Refuse what cannot be trained."""
        if self.steps < 1:
            raise BadInputError(f"steps must be at least 1, got {self.steps}")
        if self.rate < 0:
            raise BadInputError(f"a learning rate must be at least 0, got {self.rate}")


def steps_for(visits: int, sequences: int, batch: int) -> int:
    """Return the steps in which every sequence is visited `visits` times."""
    for name, figure in (("visits", visits), ("sequences", sequences), ("batch", batch)):
        if figure < 1:
            raise BadInputError(f"{name} must be at least 1, got {figure}")
    return max(1, round(visits * sequences / batch))


def scales(arms: Sequence[Arm], training: Training, start: int, count: int) -> Tensor:
    """Return per step and arm what AdamW needs: rate / (1 − β₁ᵗ) and 1 / √(1 − β₂ᵗ)."""
    step = np.arange(start, start + count, dtype=np.float64)[:, None]
    total = np.array([arm.steps for arm in arms], dtype=np.float64)
    warmup = np.minimum(training.warmup_steps, total // 10) + 1
    shape = np.minimum(1, (step + 1) / warmup) * 0.5 * (1 + np.cos(np.pi * np.minimum(1, step / total)))
    rate = np.array([arm.rate for arm in arms]) * shape / (1 - training.beta1 ** (step + 1))
    root = np.broadcast_to(1 / np.sqrt(1 - training.beta2 ** (step + 1)), rate.shape)
    return torch.from_numpy(np.stack((rate, root), -1)).float()


class Visits:
    """The order in which one arm sees its sequences: all of them, then all in another order, for ever.

    A visit is a function of seed and number alone, so that a resumed run goes on exactly where it stopped.
    """

    def __init__(self, sequences: int, seed: int) -> None:
        """Take the number of sequences and the arm's seed."""
        self.sequences, self.seed = sequences, seed
        self._rounds = max(1, _BLOCK_VISITS // sequences)
        self._block, self._order = -1, np.empty(0, np.int64)

    def take(self, start: int, count: int) -> np.ndarray:
        """Return `count` visits from the `start`th on."""
        size, parts = self._rounds * self.sequences, []
        while count > 0:
            block, offset = divmod(start, size)
            part = self._shuffled(block)[offset : offset + count]
            parts.append(part)
            start, count = start + len(part), count - len(part)
        return np.concatenate(parts)

    def _shuffled(self, block: int) -> np.ndarray:
        if block != self._block:
            once = np.broadcast_to(np.arange(self.sequences), (self._rounds, self.sequences))
            self._order = np.random.default_rng((self.seed, block)).permuted(once, axis=1).reshape(-1)
            self._block = block
        return self._order
