"""The committed ledger as history: `asv run` of a commit reads what that commit says was found on this machine."""

import json
from pathlib import Path

import gemma_bench

LEDGER = Path(gemma_bench.__file__).parents[1] / "results" / "ledger.json"
"""That of the checkout that asv has made, not of the working tree."""


def lines():
    """Return the claims that have a figure, by id."""
    found = json.loads(LEDGER.read_text(encoding="utf-8"))["claims"] if LEDGER.exists() else []
    return {line["id"]: line for line in found if line["measured"]}


def chapters():
    """Return the chapters that there are, as the ids of their claims begin."""
    return list(dict.fromkeys(name.partition("-")[0] for name in lines()))


def beyond(value, low, high):
    """Return where a figure lies: 1 at the nearest limit, less inside what is allowed, in units of that limit."""
    outside = [(low - value, low)] if low is not None else []
    outside += [(value - high, high)] if high is not None else []
    distance, limit = max(outside)
    return 1 + distance / (abs(limit) or 1)


class _OfThisMachine:
    version = "1"

    def setup(self, *_):
        from gemma_bench.core.machine import this_machine

        if not LEDGER.exists() or json.loads(LEDGER.read_text(encoding="utf-8"))["machine"]["id"] != this_machine().id:
            raise NotImplementedError("the committed ledger is of another machine")


class Claims(_OfThisMachine):
    """Every judged figure on one scale: at most 1 where the claim holds, lower is better."""

    params = tuple(lines())
    param_names = ("claim",)

    def track_figure_over_limit(self, name):
        line = lines()[name]
        return beyond(line["measured"]["value"], line["allowed"]["low"], line["allowed"]["high"])

    track_figure_over_limit.unit = "× of the limit"


class Chapters(_OfThisMachine):
    """How long the checks of a chapter took, evidence that they share included."""

    params = tuple(chapters())
    param_names = ("chapter",)

    def track_ledger_s(self, chapter):
        return sum(line["duration_s"] for name, line in lines().items() if name.partition("-")[0] == chapter)

    track_ledger_s.unit = "s"
