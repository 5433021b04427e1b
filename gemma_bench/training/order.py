"""The order in which rows are seen: a function of the seed alone, so that a resumed run goes on where it stopped."""

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler


class Order(Sampler[list[int]]):
    """Batches of a whole run: one shuffle of all rows after the other, batches crossing from one into the next."""

    def __init__(self, row_count: int, batch_size: int, batch_count: int, seed: int) -> None:
        """Take the size of the data, of a batch and of the run."""
        self.row_count, self.batch_size, self.batch_count, self.seed = row_count, batch_size, batch_count, seed

    def __len__(self) -> int:
        """Return the number of batches."""
        return self.batch_count

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the rows of each batch."""
        rows = self._rows()
        for _ in range(self.batch_count):
            yield [next(rows) for _ in range(self.batch_size)]

    def _rows(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed)
        while True:
            yield from torch.randperm(self.row_count, generator=generator).tolist()
