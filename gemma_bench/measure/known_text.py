"""One text for every machine, so that perplexities can be compared: the GNU General Public License, version 3.

The text is data to read; this package's own licence is another.
"""

from pathlib import Path
from typing import Any

from gemma_bench.core.errors import BadInputError

NAME = "GPL-3"


def known_text() -> str:
    """Return the whole text."""
    return Path(__file__).with_name("gpl_3.txt").read_text(encoding="utf-8")


def known_tokens(tokenizer: Any, count: int) -> list[int]:
    """Return the first tokens of the text, as a model's own tokenizer cuts it."""
    ids: list[int] = tokenizer(known_text()).input_ids
    if not 2 <= count <= len(ids):  # noqa: PLR2004 - a likelihood needs a token and one before it
        raise BadInputError(f"tokens of {NAME} must be between 2 and {len(ids)}, got {count}")
    return ids[:count]
