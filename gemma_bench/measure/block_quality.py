"""What decoding in blocks saves and loses against one token at a time, over the same prompts, with intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gemma_bench.core.intervals import Interval, proportion_interval, ratio_interval


@dataclass(frozen=True)
class Written:
    """What a way to decode wrote after each prompt: which answers are right, with how many tokens, passes and nats.

    Tokens count the stop token, which had to be predicted too; `nats` is what each answer costs under some other model.
    """

    is_right: Sequence[bool]
    tokens: Sequence[int]
    passes: Sequence[int]
    nats: Sequence[float]


def quality(written: Written, one_by_one: Written) -> dict[str, float]:
    """Return shares of right and of lost answers, tokens per pass and nats per token, with 95 % intervals.

    Lost are the answers that the same prompts got right one token at a time; what is won elsewhere does not make up for
    them.
    """
    pairs = zip(written.is_right, one_by_one.is_right, strict=True)
    lost = sum(before and not now for now, before in pairs)
    return {
        **bounds("right", "_ratio", proportion_interval(sum(written.is_right), len(written.is_right))),
        **bounds("lost", "_ratio", proportion_interval(lost, len(written.is_right))),
        **bounds("tokens_per_pass", "", ratio_interval(written.tokens, written.passes)),
        "nats": sum(written.nats) / sum(written.tokens),
    }


def columns(prefix: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Any, ...]]:
    """Return rows of the same names as columns, `prefix_` before each name; no rows have none."""
    return {f"{prefix}_{name}": tuple(row[name] for row in rows) for name in rows[0]} if rows else {}


def bounds(name: str, unit: str, found: Interval) -> dict[str, float]:
    """Return a figure and its interval's ends under their names: `name_unit`, `name_low_unit`, `name_high_unit`."""
    return {f"{name}{unit}": found.value, f"{name}_low{unit}": found.low, f"{name}_high{unit}": found.high}
