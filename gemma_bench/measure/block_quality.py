"""What decoding in blocks saves and loses against one token at a time, over the same prompts, with intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

from gemma_bench.core.intervals import proportion_interval, ratio_interval


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
        **proportion_interval(sum(written.is_right), len(written.is_right)).named("right", "ratio"),
        **proportion_interval(lost, len(written.is_right)).named("lost", "ratio"),
        **ratio_interval(written.tokens, written.passes).named("tokens_per_pass"),
        "nats": sum(written.nats) / sum(written.tokens),
    }
