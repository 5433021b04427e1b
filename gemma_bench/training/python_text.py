"""Rows of Python source in a model's own tokens, each with `<bos>` in front, and held-out pieces to go on from."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from gemma_bench.core.errors import BadInputError
from gemma_bench.training.corpus import python_files


@dataclass(frozen=True)
class PythonText:
    """Training and held-out streams of tokens, from files of the running Python's own library, without `<bos>`."""

    train: Int[Tensor, " token"]
    held_out: Int[Tensor, " token"]
    bos: int

    def rows(self, length: int) -> Int[Tensor, "row position"]:
        """Return the training stream in rows of `length` tokens, `<bos>` among them."""
        return _rows(self.train, length, self.bos)

    def held_out_rows(self, length: int, count: int) -> Int[Tensor, "row position"]:
        """Return `count` held-out rows, spread evenly over the stream."""
        rows = _rows(self.held_out, length, self.bos)
        if len(rows) < count:
            raise BadInputError(f"held-out text has {len(rows)} rows of {length} tokens, {count} were asked for")
        return rows[torch.linspace(0, len(rows) - 1, count).long()]


def read_python(tokenizer: Any, most_bytes: int, seed: int = 0) -> PythonText:
    """Tokenise the standard library, its files in a seeded order, up to about `most_bytes` and a quarter held out."""
    train, held_out = (_shuffled(files, seed) for files in python_files())
    return PythonText(
        _stream(tokenizer, train, most_bytes), _stream(tokenizer, held_out, most_bytes // 4), tokenizer.bos_token_id
    )


def _shuffled(files: Sequence[Path], seed: int) -> list[Path]:
    return Random(seed).sample(files, len(files))  # noqa: S311 - reproducible, not secret


def _stream(tokenizer: Any, files: Iterable[Path], most_bytes: int) -> Int[Tensor, " token"]:
    texts, size = list[str](), 0
    for path in files:
        if size >= most_bytes:
            break
        texts.append(path.read_text(encoding="utf-8", errors="replace"))
        size += len(texts[-1])
    rows = tokenizer(texts, add_special_tokens=False).input_ids
    return torch.tensor([token for row in rows for token in (*row, tokenizer.eos_token_id)])


def _rows(stream: Int[Tensor, " token"], length: int, bos: int) -> Int[Tensor, "row position"]:
    kept = stream[: len(stream) // (length - 1) * (length - 1)].view(-1, length - 1)
    return torch.cat((torch.full((len(kept), 1), bos), kept), dim=1)
