"""Was a sequence in the training data? The loss-threshold attack: members cost less, and how well does that tell.

Source: Yeom et al., Privacy risk in machine learning, arXiv:1709.01604; AUC's interval after DeLong et al. (1988).
"""

from dataclasses import dataclass
from statistics import NormalDist
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import rankdata

from gemma_bench.core.errors import BadInputError
from gemma_bench.core.intervals import Interval

Losses = Float[np.ndarray, " sequence"]

Rates = TypeVar("Rates", float, np.ndarray)

_FEWEST = 4
_RESAMPLES = 10_000


@dataclass(frozen=True)
class Attack:
    """How well losses tell members from others.

    `auc` is the chance that a member costs less than another sequence (½: no better than a coin). `f1` uses thresholds
    fitted on other data; calling everything a member reaches `f1_floor` without knowing anything.
    """

    auc: Interval
    f1: Interval
    f1_floor: float


def attack(members: Losses, others: Losses, *, confidence: float = 0.95, seed: int = 0) -> Attack:
    """Attack by loss: AUC over all pairs, and F1 with the threshold for each half fitted on the other half.

    `members` and `others` are losses of whole sequences, in any unit, and in an order that means nothing. Two samples
    of the same origin are the control: the interval of their AUC holds ½.
    """
    for name, losses in (("members", members), ("others", others)):
        if len(losses) < _FEWEST:
            raise BadInputError(f"{name} must be at least {_FEWEST} sequences, got {len(losses)}")
        if not np.isfinite(losses).all():
            raise BadInputError(f"losses of {name} must be numbers, got {losses[~np.isfinite(losses)][0]}")
    flagged, alarmed = _cross_fitted(members, others)
    share = len(members) / (len(members) + len(others))
    found = _f1_interval(flagged, alarmed, confidence, seed)
    return Attack(auc(members, others, confidence=confidence), found, f1_score(1.0, 1.0, share))


def auc(members: Losses, others: Losses, *, confidence: float = 0.95) -> Interval:
    """Return the chance that a member costs less than another sequence, a tie counting half, with its interval."""
    m, n = len(members), len(others)
    together = rankdata(np.concatenate([members, others]))
    below_member = (together[:m] - rankdata(members)) / n
    above_other = (together[m:] - rankdata(others)) / m
    value = float(1 - below_member.mean())
    spread = np.sqrt(below_member.var(ddof=1) / m + above_other.var(ddof=1) / n)
    half = float(NormalDist().inv_cdf((1 + confidence) / 2) * spread)
    return Interval(value, max(0.0, value - half), min(1.0, value + half))


def f1_score(hit_rate: Rates, alarm_rate: Rates, member_share: float) -> Rates:
    """Return 2·TP / (2·TP + FP + FN) from the share of members found and of others taken for members."""
    hits, alarms = hit_rate * member_share, alarm_rate * (1 - member_share)
    return 2 * hits / (hits + alarms + member_share)


def best_threshold(members: Losses, others: Losses) -> float:
    """Return the loss up to which calling a sequence a member gives the highest F1."""
    losses, is_member = np.concatenate([members, others]), np.arange(len(members) + len(others)) < len(members)
    order = np.argsort(losses, kind="stable")
    hits = np.cumsum(is_member[order])
    called = np.arange(1, len(order) + 1)
    scores = 2 * hits / (called + len(members))
    is_last_of_ties = np.append(np.diff(losses[order]) > 0, True)
    best = int(np.argmax(np.where(is_last_of_ties, scores, -1.0)))
    return float(losses[order[best]])


def _cross_fitted(members: Losses, others: Losses) -> tuple[Bool[np.ndarray, " member"], Bool[np.ndarray, " other"]]:
    """Call members with a threshold that never saw the sequence: even places judge odd ones and the other way round."""
    called = tuple(np.empty(len(losses), bool) for losses in (members, others))
    for half in (0, 1):
        threshold = best_threshold(members[1 - half :: 2], others[1 - half :: 2])
        for losses, out in zip((members, others), called, strict=True):
            out[half::2] = losses[half::2] <= threshold
    return called[0], called[1]


def _f1_interval(hits: np.ndarray, alarms: np.ndarray, confidence: float, seed: int) -> Interval:
    """Return F1 and its bootstrap interval: resampling calls with replacement draws binomial counts."""
    m, n = len(hits), len(alarms)
    share = m / (m + n)
    draws = np.random.default_rng(seed)
    rates = draws.binomial(m, hits.mean(), _RESAMPLES) / m, draws.binomial(n, alarms.mean(), _RESAMPLES) / n
    value = f1_score(hits.mean(), alarms.mean(), share)
    ends = np.quantile(f1_score(*rates, share), ((1 - confidence) / 2, (1 + confidence) / 2))
    return Interval(float(value), min(float(ends[0]), float(value)), max(float(ends[1]), float(value)))
