"""What happens where data exceed capacity, a little and by far: where test loss peaks, whom an attack tells apart."""

from collections.abc import Iterator, Sequence
from math import log, sqrt
from statistics import NormalDist, median
from typing import TYPE_CHECKING

from gemma_bench.report.chart import Chart, Lines, Series, around

if TYPE_CHECKING:
    from gemma_bench.experiments.double_descent import DescentRecord
    from gemma_bench.experiments.membership import MembershipRecord

MEMBERSHIP = (
    "The chance that a string of the training data costs less than one never seen (½: nothing can be told), and by how "
    "many bits it does, against data in units of what the model can hold; every string was visited equally often. "
    "Means over seeds with the 95 % interval of Student's t. Dashed: Φ(√s), where s are the nats that a member of "
    "uniform strings saves; others then cost s more, and a string's cost has the variance 2s."
)
DESCENT = (
    "Loss on fresh strings and on those of the training data, against data in units of the capacity measured after the "
    "same steps; means over seeds with the 95 % interval of Student's t. The peak moves with training time."
)

_DATA = "data over capacity"


def membership_charts(records: Sequence["MembershipRecord"]) -> Iterator[Chart]:
    """Yield the attack's AUC and the bits by which members are cheaper, a line per law of strings."""
    record = records[0]
    attacks, gaps = [], []
    for colour, rule in enumerate(dict.fromkeys(record.rule_ratios)):
        sizes = record.sizes(rule)
        over = [median(record.column("over_capacity_ratio", rule, size)) for size in sizes]
        name = f"a rule that holds {100 * rule:g} % of the time" if rule else "uniform strings"
        value, low, high = zip(*(around(record.column("auc_ratio", rule, size)) for size in sizes), strict=True)
        attacks.append(Series(name, over, value, low, high, colour=colour))
        if rule == 0:
            attacks.append(Series("as its savings foretell", over, _foretold(record, sizes), is_dashed=True, colour=7))
        gaps.append(Series(name, over, [_gap(record, rule, size) for size in sizes], colour=colour))
    yield Lines("The attack by loss", _DATA, "AUC", attacks, x_is_log=True, marks=[(0.5, "chance")])
    yield Lines("How much cheaper a member is", _DATA, "bits per string", gaps, x_is_log=True, y_is_log=True)


def _foretold(record: "MembershipRecord", sizes: Sequence[int]) -> list[float]:
    """Return Φ(√s) of the nats s that a member saves, the mean over seeds.

    Of a nearly uniform law that saves s on members, others cost s more and the variance of either is 2s, so that the
    difference of an other and a member is 2s ± √(4s).
    """
    saved = [
        sum(found) / len(found) for size in sizes if (found := record.column("member_bits_per_sequence", 0.0, size))
    ]
    return [NormalDist().cdf(sqrt(max(0.0, bits) * log(2))) for bits in saved]


def _gap(record: "MembershipRecord", rule: float, sequences: int) -> float:
    members, others = (record.column(f"{who}_bits_per_sequence", rule, sequences) for who in ("member", "other"))
    return (sum(members) - sum(others)) / len(members)


def descent_charts(records: Sequence["DescentRecord"]) -> Iterator[Chart]:
    """Yield the loss on fresh strings and on the training data, a line per number of steps."""
    record = records[0]
    for which, title in (("test", "Loss on fresh strings"), ("train", "Loss on the training data")):
        series = [
            _course(record, which, steps, place) for place, steps in enumerate(sorted(set(record.steps_counts))[::-1])
        ]
        marks = [(record.entropy_bits_per_token, "what the law itself costs")]
        uprights = [(1.0, "data = capacity")]
        yield Lines(
            title, _DATA, "bits per token", series, x_is_log=True, from_zero=True, marks=marks, uprights=uprights
        )


def _course(record: "DescentRecord", which: str, steps: int, place: int) -> Series:
    seeds = sorted(set(record.seeds))
    ratios = [
        [bits / record.capacity(steps, seed) for bits in record.column("data_bits", steps, seed)] for seed in seeds
    ]
    losses = zip(*(record.column(f"{which}_bits_per_token", steps, seed) for seed in seeds), strict=True)
    value, low, high = zip(*map(around, losses), strict=True)
    over = [median(column) for column in zip(*ratios, strict=True)]
    return Series(f"{steps:,} steps", over, value, low, high, is_dashed=place > 0)
