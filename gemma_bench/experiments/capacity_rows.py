"""What one row of the capacity experiment is: a shape, its data, its visits and the rates that are tried."""

from pydantic import BaseModel, ConfigDict

from gemma_bench.core.errors import BadInputError, UnavailableError
from gemma_bench.training.stack.arms import Training
from gemma_bench.training.stack.shape import Shape

_ABOVE = 3.5
"""Data of so many bits per parameter count as a plateau's; below, a set may fit whole."""


class Row(BaseModel):
    """One shape: data of several sizes (bits of data per parameter), seeds, and the same visits for every sequence.

    The peak rate is that of `rates` which holds most after an eighth of the visits, at `doubled_ratio` with seed 0.
    There, too, runs with halved and quartered visits tell what the last doubling gained.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    shape: Shape
    ratios: tuple[float, ...]
    visits: int
    rates: tuple[float, ...]
    seeds: tuple[int, ...] = (0,)
    doubled_ratio: float = 5.4
    training: Training = Training()
    time_share: float = 1.0

    @property
    def name(self) -> str:
        """Name the row: `gpt2 1×32, 80352 parameters, bfloat16`."""
        shape = self.shape
        return (
            f"{shape.style} {shape.layers}×{shape.width}, {shape.parameter_count} parameters, {self.training.precision}"
        )

    def sequences(self, ratio: float) -> int:
        """Return how many sequences hold `ratio` bits of data for each parameter."""
        return max(1, self.shape.sequences(ratio))

    def check(self) -> None:
        """Refuse rows in which capacity could not be seen."""
        if min(self.ratios, default=0) <= 0 or self.doubled_ratio not in self.ratios:
            raise BadInputError(
                f"ratios must be above 0 and hold doubled_ratio {self.doubled_ratio}, got {self.ratios}"
            )
        if self.visits < 8 or not self.rates or not self.seeds:  # noqa: PLR2004
            raise BadInputError(f"{self.name} needs at least 8 visits, 1 rate and 1 seed")
        if max(self.ratios) < _ABOVE:
            needed = self.sequences(_ABOVE)
            raise UnavailableError(
                "data",
                f"{self.name}: {max(self.ratios):g} bits per parameter may fit whole, {needed:,} sequences would not",
            )
