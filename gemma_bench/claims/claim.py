"""A claim: one sentence with one number that evidence can contradict, attached to the spec that judges it."""

import re
from collections.abc import Callable
from typing import Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field

Kind = Literal["identity", "arithmetic", "measured", "recorded", "hardware"]
Scale = Literal["fixture", "study", "long", "full"]
Expectation = Literal["holds", "refuted", "open"]

SCALES: tuple[Scale, ...] = get_args(Scale)
"""From seconds to the published size: a run at one scale includes the smaller ones."""

Spec = TypeVar("Spec", bound=Callable[..., Any])


class Claim(BaseModel):
    """What a spec says about itself before anything runs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=r"^[A-Z][A-Z0-9]*-[0-9]+$")
    version: int = Field(ge=1)
    headline: str = Field(min_length=1)
    kind: Kind
    source: str = Field(min_length=1)
    scale: Scale = "fixture"
    expect: Expectation
    faults: tuple[str, ...]
    sentence: str


def claim(
    *,
    id: str,  # noqa: A002 - the field's own name, everywhere
    version: int,
    headline: str,
    kind: Kind,
    source: str,
    expect: Expectation,
    faults: list[str],
    scale: Scale = "fixture",
) -> Callable[[Spec], Spec]:
    """Make a test function the spec of a claim; the first sentence of its docstring is the claim.

    Arguments are literals or names from `sources.py`, so that `--contents` reads them without importing the spec.
    `faults` names functions in `faults.py`, or in a module of `faults/`, beside the spec: known-bad variants that the
    check must catch.
    """
    fields = {"id": id, "version": version, "headline": headline, "kind": kind, "source": source, "scale": scale}

    def attach(spec: Spec) -> Spec:
        sentence = first_sentence(spec.__doc__ or "")
        setattr(spec, ATTRIBUTE, Claim(**fields, expect=expect, faults=tuple(faults), sentence=sentence))
        return spec

    return attach


ATTRIBUTE = "__gemma_bench_claim__"


def claim_of(spec: object) -> Claim | None:
    """Return the claim that a function is the spec of, if it is one."""
    return getattr(spec, ATTRIBUTE, None)


def first_sentence(docstring: str) -> str:
    """Return the text up to the first full stop that ends a sentence (`3.6` does not), on one line."""
    text = " ".join(docstring.split())
    return re.split(r"(?<=[.!?])\s+(?=[A-Z(`*])", text, maxsplit=1)[0]
