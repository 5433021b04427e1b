"""Families of prompts with known right answers, from one answer only to many, written in ASCII.

A token is a character's ASCII code; the first codes are Gemma's special ids. `digits` and `record` have one right
answer, most of it copied, in `digits` from places that never move; `sums` has one that must be computed; `choice` has
three, so that its tokens depend on each other though the prompt is known; `table` is real text, the names of Unicode's
characters in their order.
"""

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from zlib import crc32

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from gemma_bench.core.errors import BadInputError, unknown

PAD, EOS, BOS, MASK = 0, 1, 2, 4
"""Ids of the released models, whose tokenizer has a `<mask>` that no text uses."""

VOCABULARY = 128

_NAMES = """
Ada Alan Anna Boris Carl Clara Dana David Edith Emil Emma Felix Fritz Grace Hugo Ida Igor Ines Ivan Jana John Karl Kurt
Lena Leo Lisa Luca Mara Maria Mark Nina Noam Olga Oscar Paul Petra Rosa Ruth Sara Tim Tom Vera
"""
_CITIES = """
Accra Athens Basel Berlin Bern Bonn Cairo Delhi Dublin Geneva Genoa Graz Havana Kiel Kyiv Lagos Lima Lisbon London Lyon
Madrid Milan Minsk Nice Osaka Oslo Paris Perth Prague Quito Rabat Riga Rome Seoul Sofia Tokyo Tunis Turin Vienna Warsaw
Zurich
"""
_HELD_OUT_ONE_IN = 5
_CHUNK_LINES = 64
_LONGEST_NAME = 40


@dataclass(frozen=True)
class Example:
    """A prompt, one right answer, and all of them; examples of one key are held out together."""

    prompt: str
    answer: str
    right: frozenset[str]
    key: str

    @property
    def is_held_out(self) -> bool:
        """Whether training must not see this example: one key in five."""
        return crc32(self.key.encode()) % _HELD_OUT_ONE_IN == 0

    @property
    def prompt_tokens(self) -> list[int]:
        """Return `<bos>` and the prompt's codes."""
        return [BOS, *self.prompt.encode("ascii")]


@dataclass(frozen=True)
class Family:
    """How to draw an example, and the most tokens that `<bos>` with a prompt and an answer with `<eos>` have."""

    name: str
    draw: Callable[[Random], Example]
    prompt_tokens: int
    answer_tokens: int


def digits(random: Random) -> Example:
    """Name three digits."""
    first, second, third = random.choices("0123456789", k=3)
    return _single(f"{first}{second}{third}>", f"a={first} b={second} c={third}.")


def record(random: Random) -> Example:
    """Rewrite two fields as JSON."""
    name, city = random.choice(_NAMES.split()), random.choice(_CITIES.split())
    return _single(f"name={name};city={city}>", f'{{"name":"{name}","city":"{city}"}}')


def sums(random: Random) -> Example:
    """Add two numbers of two digits."""
    first, second = random.randrange(100), random.randrange(100)
    return _single(f"{first:02}+{second:02}>", f"{first + second:03}")


def choice(random: Random) -> Example:
    """Repeat any one of three words."""
    words = random.sample(_NAMES.split(), 3)
    prompt = f"{' '.join(words)}>"
    return Example(prompt, random.choice(words), frozenset(words), prompt)


def table(random: Random) -> Example:
    """Write the name that follows a character's in Unicode's table; runs of 64 names are held out together."""
    names = _names()
    line = random.randrange(len(names) - 1)
    return Example(f"{names[line]}>", names[line + 1], frozenset({names[line + 1]}), str(line // _CHUNK_LINES))


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family("digits", digits, 5, 13),
        Family("record", record, 25, 34),
        Family("sums", sums, 7, 4),
        Family("choice", choice, 19, 6),
        Family("table", table, 42, 41),
    )
}


def find_family(name: str) -> Family:
    """Return the family of a name."""
    if name not in FAMILIES:
        raise unknown("family", name, FAMILIES)
    return FAMILIES[name]


def draw(family: Family, count: int, seed: int, *, held_out: bool) -> list[Example]:
    """Draw examples that training sees, or others that it never does."""
    random, drawn = Random(seed), list[Example]()  # noqa: S311 - reproducible, not secret
    while len(drawn) < count:
        example = family.draw(random)
        if example.is_held_out == held_out:
            drawn.append(example)
    return drawn


def token_rows(
    examples: Sequence[Example], length: int
) -> tuple[Int[Tensor, "example position"], Bool[Tensor, "example position"]]:
    """Return tokens with `<eos>` up to `length`, and which of them are to be predicted: the answer and what follows.

    Filled to a fixed length, the number of masked tokens in a block tells nothing about the answer's.
    """
    rows = torch.full((len(examples), length), EOS)
    is_counted = torch.zeros(rows.shape, dtype=torch.bool)
    for row, counted, example in zip(rows, is_counted, examples, strict=True):
        prompt = example.prompt_tokens
        tokens = [*prompt, *example.answer.encode("ascii")]
        if len(tokens) >= length:
            raise BadInputError(f"length must be above {len(tokens)} tokens for {example.prompt!r}, got {length}")
        row[: len(tokens)] = torch.tensor(tokens)
        counted[len(prompt) :] = True
    return rows, is_counted


def text_of(tokens: Sequence[int]) -> str:
    """Return the text of an answer's tokens."""
    return bytes(tokens).decode("ascii")


def _single(prompt: str, answer: str) -> Example:
    return Example(prompt, answer, frozenset({answer}), prompt)


@cache
def _names() -> list[str]:
    """Return the names of Unicode's characters but for those that only count: ideographs and syllables."""
    names = (unicodedata.name(chr(code), "") for code in range(0x3_0000))
    counted = ("CJK ", "HANGUL SYLLABLE", "TANGUT ", "KHITAN ", "NUSHU ")
    return [name for name in names if 0 < len(name) <= _LONGEST_NAME and not name.startswith(counted)]
