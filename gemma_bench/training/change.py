"""What a model was changed by since its adapters began: sums of products B·A, kept so that their rank can be read.

The difference of stored weights will not do: it carries the rounding of the weights, which has full rank. A merged
product is kept as its factors while they take less room than the whole matrix, then as the matrix, in float64 (float32
on MPS, which has no other).
"""

from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Float
from peft.tuners.lora import LoraLayer
from torch import Tensor

from gemma_bench.training.adapters import factors

Factors = tuple[Float[Tensor, "out rank"], Float[Tensor, "rank in"]]


class MatrixChange:
    """A sum of products B·A, as factors or, once that is smaller, as one matrix."""

    def __init__(self) -> None:
        """Start with no change."""
        self.pieces: list[Factors] = []
        self.whole: Tensor | None = None

    def add(self, b: Float[Tensor, "out rank"], a: Float[Tensor, "rank in"]) -> None:
        """Add one product, of which copies are kept."""
        if self.whole is not None:
            self.whole.addmm_(b.to(self.whole), a.to(self.whole))
            return
        self.pieces.append((b.clone(), a.clone()))
        held = sum(piece.shape[1] for piece, _ in self.pieces)
        if held * (len(b) + a.shape[1]) * b.element_size() > 8 * len(b) * a.shape[1]:
            self.whole, self.pieces = self.matrix(), []

    def factors(self) -> Factors | None:
        """Return B and A of the whole sum side by side, or `None` once only the matrix is kept."""
        if self.whole is not None or not self.pieces:
            return None
        bs, parts = zip(*self.pieces, strict=True)
        return torch.cat(bs, dim=1), torch.cat(parts, dim=0)

    def matrix(self) -> Float[Tensor, "out in"]:
        """Return the sum as one matrix."""
        if self.whole is not None:
            return self.whole
        together = self.factors()
        if together is None:
            raise ValueError("nothing was added yet")
        precise = torch.float32 if together[0].device.type == "mps" else torch.float64
        b, a = (part.to(precise) for part in together)
        return b @ a


class CumulativeChange:
    """The change of adapted matrices since a step, merge by merge: of all, or of those in `names`."""

    def __init__(self, since_step: int = 0) -> None:
        """Start with no change, at the step from which on adapters hold it."""
        self.since_step, self.matrices = since_step, dict[str, MatrixChange]()
        self.names: tuple[str, ...] | None = None

    def keep_only(self, names: Iterable[str]) -> None:
        """Keep the merges of these matrices alone: those that somebody will read."""
        self.names = tuple(names)

    def record(self, model_layers: Mapping[str, LoraLayer]) -> None:
        """Add what every adapter adds now: called right before it is merged."""
        for name, layer in model_layers.items():
            if self.names is None or name in self.names:
                self.matrices.setdefault(name, MatrixChange()).add(*factors(layer))

    def with_adapters(self, model_layers: Mapping[str, LoraLayer]) -> dict[str, MatrixChange]:
        """Return the change up to now: what was merged and what the adapters add on top."""
        return {name: self._with_adapter(name, layer) for name, layer in model_layers.items()}

    def _with_adapter(self, name: str, layer: LoraLayer) -> MatrixChange:
        now, merged = MatrixChange(), self.matrices.get(name, MatrixChange())
        now.pieces = list(merged.pieces)
        now.whole = None if merged.whole is None else merged.whole.clone()
        now.add(*factors(layer))
        return now

    def state_dict(self) -> dict[str, dict[str, list[Factors] | Tensor | None]]:
        """Return everything that a checkpoint needs."""
        return {name: {"pieces": part.pieces, "whole": part.whole} for name, part in self.matrices.items()}

    def load_state_dict(self, state: Mapping[str, Mapping[str, list[Factors] | Tensor | None]]) -> None:
        """Take up what `state_dict` returned."""
        self.matrices = {}
        for name, part in state.items():
            change = self.matrices[name] = MatrixChange()
            pieces, whole = part["pieces"], part["whole"]
            change.pieces = list(pieces) if isinstance(pieces, list) else []
            change.whole = whole if isinstance(whole, Tensor) else None
