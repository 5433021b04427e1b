"""Data in the convention of `mlx_lm.lora`: a folder with train, valid and test.jsonl of chats, completions or texts."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from torch import Tensor
from torch.utils.data import Dataset

from gemma_bench.core.errors import BadInputError, DamagedFileError
from gemma_bench.core.files import read_text

IGNORED = -100
"""The label of a position that is not to be predicted."""

_SHORTEST = 2


@dataclass(frozen=True)
class Example:
    """One row's tokens, of which the first `prompt_count` are given and not to be learnt."""

    tokens: list[int]
    prompt_count: int = 0


@dataclass(frozen=True)
class Reading:
    """How rows become examples: how long they may be, what happens to longer ones, and whether prompts are learnt."""

    tokenizer: Any
    context_tokens: int
    mask_prompt: bool = False
    refuse_long: bool = False


class Examples(Dataset[Example]):
    """The rows of one file; `cut_count` were longer than the context and lost their end.

    There must be something to learn in at least one of them.
    """

    def __init__(self, path: Path, reading: Reading) -> None:
        """Read a file; an error names it and the line."""
        self.rows: list[Example] = []
        self.cut_count = 0
        for number, line in enumerate(read_text(path, "data file").split("\n"), start=1):
            if not line.strip():
                continue
            row = _row(line, path, number)
            try:
                example = _example(row, reading)
            except TemplateError as error:
                raise DamagedFileError(f"data file {path}, line {number}: {error}") from error
            self.rows.append(self._fitted(example, reading, path, number))
        if not self.rows:
            raise BadInputError(f"data file {path} has no rows")
        if all(len(row.tokens) <= max(row.prompt_count, 1) for row in self.rows):
            raise BadInputError(
                f"data file {path}: none of {len(self.rows):,} rows has a token to learn, {self.cut_count:,} were cut "
                f"at {reading.context_tokens:,} tokens: allow longer rows or learn prompts too"
            )

    def _fitted(self, example: Example, reading: Reading, path: Path, number: int) -> Example:
        length, most = len(example.tokens), reading.context_tokens
        if length < _SHORTEST:
            raise BadInputError(f"data file {path}, line {number}: a row must have at least 2 tokens, got {length}")
        if length <= most:
            return example
        if reading.refuse_long:
            raise BadInputError(f"data file {path}, line {number}: {length:,} tokens are too many, at most {most:,}")
        self.cut_count += 1
        return Example(example.tokens[:most], example.prompt_count)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        """Return one row."""
        return self.rows[index]


def split_path(folder: Path, split: str) -> Path:
    """Return where a split's rows are."""
    return folder / f"{split}.jsonl"


def padded(rows: list[Example]) -> dict[str, Tensor]:
    """Make a batch of rows of different lengths: padding at the right, labels where something is to be learnt."""
    length = max(len(row.tokens) for row in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    labels = torch.full((len(rows), length), IGNORED)
    for index, row in enumerate(rows):
        tokens = torch.tensor(row.tokens)
        ids[index, : len(tokens)] = tokens
        labels[index, row.prompt_count : len(tokens)] = tokens[row.prompt_count :]
    return {"input_ids": ids, "labels": labels}


def _row(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise DamagedFileError(f"data file {path}, line {number} is not Unicode: half a surrogate pair") from error
    except ValueError as error:
        raise DamagedFileError(f"data file {path}, line {number} is not JSON: {error}") from error
    except RecursionError as error:
        raise DamagedFileError(f"data file {path}, line {number} is nested too deep") from error
    kinds = ({"messages"}, {"prompt", "completion"}, {"text"})
    if not isinstance(row, dict) or not any(kind <= set(row) for kind in kinds):
        found = ", ".join(row) if isinstance(row, dict) else type(row).__name__
        raise DamagedFileError(
            f"data file {path}, line {number} must have messages, prompt and completion, or text, got {found or 'none'}"
        )
    if wrong := _wrong(row):
        raise DamagedFileError(f"data file {path}, line {number}: {wrong}")
    return row


def _wrong(row: dict[str, Any]) -> str | None:
    """Return what a row's values must be, where they are not."""
    if "text" not in row and "messages" in row:
        messages = row["messages"]
        if not isinstance(messages, list) or not messages:
            return f"messages must be a list of at least one, got {json.dumps(messages)}"
        if any(
            not isinstance(one, dict) or {*map(type, map(one.get, ("role", "content")))} != {str} for one in messages
        ):
            return f"every message must have role and content as text, got {json.dumps(messages)}"
        return None
    names = ("text",) if "text" in row else ("prompt", "completion")
    return next((f"{n} must be text, got {json.dumps(row[n])}" for n in names if not isinstance(row[n], str)), None)


def _example(row: dict[str, Any], reading: Reading) -> Example:
    tokenizer = reading.tokenizer
    if "text" in row:
        return Example([*tokenizer(row["text"]).input_ids, tokenizer.eos_token_id])
    messages = row.get("messages") or [
        {"role": "user", "content": row["prompt"]},
        {"role": "assistant", "content": row["completion"]},
    ]
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    given, cut = messages[:-1], 0
    if reading.mask_prompt and given:
        start = tokenizer.apply_chat_template(given, tokenize=False, add_generation_prompt=True)
        cut = len(start) if whole.startswith(start) else 0
    prompt = tokenizer(whole[:cut], add_special_tokens=False).input_ids if cut else []
    return Example([*prompt, *tokenizer(whole[cut:], add_special_tokens=False).input_ids], len(prompt))
