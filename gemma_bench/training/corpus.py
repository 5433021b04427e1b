"""Text to train on that every machine has: the running Python's own library, as bytes or as a model's tokens."""

import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Dataset

from gemma_bench.core.errors import BadInputError
from gemma_bench.models.tokenizer import SPECIAL_TOKENS

_HELD_OUT_EVERY = 10
_LEFT_OUT = {"site-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo", "__pycache__"}


@dataclass(frozen=True)
class Corpus:
    """Two streams of token ids that share no file."""

    train: Int[Tensor, " token"]
    held_out: Int[Tensor, " token"]


def python_files() -> tuple[list[Path], list[Path]]:
    """Return the standard library's `*.py` without its tests, in order of their names; every tenth is held out."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found = sorted(path for path in root.rglob("*.py") if not _LEFT_OUT & set(path.relative_to(root).parts))
    held_out = found[_HELD_OUT_EVERY - 1 :: _HELD_OUT_EVERY]
    kept_apart = set(held_out)
    return [path for path in found if path not in kept_apart], held_out


def python_sources() -> Corpus:
    """Return Python's own sources byte by byte, in the tiny tokenizer's ids: `<bos>`, then 6 + byte, for each file."""
    train, held_out = (torch.cat([_byte_ids(path) for path in files]) for files in python_files())
    return Corpus(train, held_out)


def python_tokens(tokenizer: Any, token_count: int) -> Corpus:
    """Return the first `token_count` training tokens of Python's own sources and a tenth as many held out."""
    train, held_out = python_files()
    return Corpus(_first(train, tokenizer, token_count), _first(held_out, tokenizer, token_count // _HELD_OUT_EVERY))


def python_documents(tokenizer: Any, most_characters: int, seed: int = 0) -> Corpus:
    """Return whole files in a seeded order, `<eos>` after each, up to about so many characters, and a quarter held out.

    `rows_after` cuts them into rows that begin with `<bos>`.
    """
    train, held_out = (Random(seed).sample(files, len(files)) for files in python_files())  # noqa: S311 - reproducible
    return Corpus(
        *(
            _documents(files, tokenizer, most)
            for files, most in ((train, most_characters), (held_out, most_characters // 4))
        )
    )


def rows_after(stream: Int[Tensor, " token"], length: int, bos: int) -> Int[Tensor, "row length"]:
    """Return a stream in rows of `length` tokens, of which the first is `<bos>`; what is left at the end is dropped."""
    kept = stream[: len(stream) // (length - 1) * (length - 1)].view(-1, length - 1)
    return torch.cat((torch.full((len(kept), 1), bos), kept), dim=1)


def spread(rows: Int[Tensor, "row length"], count: int) -> Int[Tensor, "count length"]:
    """Return `count` rows that lie evenly over all."""
    if len(rows) < count:
        raise BadInputError(f"the text has {len(rows)} rows of {rows.shape[1]} tokens, {count} were asked for")
    return rows[torch.linspace(0, len(rows) - 1, count).long()]


def _byte_ids(path: Path) -> Int[Tensor, " token"]:
    shifted = np.frombuffer(path.read_bytes(), dtype=np.uint8).astype(np.int16) + len(SPECIAL_TOKENS)
    return torch.from_numpy(np.concatenate([[SPECIAL_TOKENS.index("<bos>")], shifted]).astype(np.int16))


def _texts(files: Iterable[Path]) -> Iterator[str]:
    return (path.read_text(encoding="utf-8", errors="replace") for path in files)


def _first(files: Sequence[Path], tokenizer: Any, token_count: int) -> Int[Tensor, " token"]:
    ids: list[int] = []
    for text in _texts(files):
        if len(ids) >= token_count:
            break
        ids += tokenizer(text).input_ids
    if len(ids) < token_count:
        raise BadInputError(f"this Python's own sources have {len(ids):,} tokens, {token_count:,} were asked for")
    return torch.tensor(ids[:token_count], dtype=torch.int32)


def _documents(files: Sequence[Path], tokenizer: Any, most_characters: int) -> Int[Tensor, " token"]:
    ids: list[int] = []
    size = 0
    for text in _texts(files):
        if size >= most_characters:
            break
        ids += [*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
        size += len(text)
    return torch.tensor(ids)


class Windows(Dataset[Int[Tensor, " length"]]):
    """A stream cut into rows of one length, side by side; what is left at the end is dropped."""

    def __init__(self, tokens: Int[Tensor, " token"], length: int) -> None:
        """Refuse a stream that has not one whole row."""
        if not 1 < length <= len(tokens):
            raise BadInputError(f"a window must be between 2 and {len(tokens):,} tokens, got {length}")
        self.rows = tokens[: len(tokens) // length * length].view(-1, length)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    def __getitem__(self, index: int) -> Int[Tensor, " length"]:
        """Return one row."""
        return self.rows[index]

    def __getitems__(self, indices: list[int]) -> Int[Tensor, "batch length"]:
        """Return a batch at once: the data loader asks for it by this name."""
        return self.rows[indices]

    @staticmethod
    def collate(rows: Int[Tensor, "batch length"]) -> dict[str, Int[Tensor, "batch length"]]:
        """Make a batch of which every token but the first is to be predicted."""
        ids = rows.long()
        return {"input_ids": ids, "labels": ids}
