"""Evidence of chapters 4 and 5 that was recorded: arms of low-rank training, each at its best rate, over several seeds."""

from math import inf

import pytest

from gemma_bench.claims import Measured


@pytest.fixture
def arms(recorded):
    """Return the newest record of an experiment at the first of some scales that has one.

    `arms(low_rank_training, "long", "study")` prefers the longer training, `arms(merge_frequency)` takes the study's.
    """
    from gemma_bench.experiments.arms_record import ArmsRecord

    def at(experiment, scale):
        return recorded(experiment.NAME, ArmsRecord, version=experiment.VERSION, where=lambda r: r.scale == scale)

    return lambda experiment, *scales: first_of(lambda scale: at(experiment, scale), scales or ("study",))


def first_of(record_at, scales):
    """Return the record at the first scale that has one; without any, say what is missing of the last."""
    from contextlib import suppress

    from gemma_bench.core.errors import UnavailableError

    *preferred, last = scales
    for scale in preferred:
        with suppress(UnavailableError):
            return record_at(scale)
    return record_at(last)


@pytest.fixture
def excess():
    """Return what compares an arm with another: how much higher its held-out loss is, seed by seed, and all losses."""
    from gemma_bench.core.intervals import mean_interval

    def compared(record, arm, over):
        samples = record.excess_nats(arm, over)
        losses = "; ".join(f"{name} {_mean(record, name)} at {record.rates[name]:g}" for name in record.arms)
        reason = f"{arm} over {over}, {len(samples)} seeds, {record.tokens_count:,} tokens each; mean nats: {losses}"
        return Measured.within(mean_interval(samples), "nats above", samples), reason

    return compared


@pytest.fixture
def in_longer(arms, excess):
    """Return what says how an arm of the long record compares with another: it judges nothing."""
    from gemma_bench.core.errors import InvalidRunError, UnavailableError

    def said(experiment, arm, over):
        try:
            found, _ = excess(arms(experiment, "long"), arm, over)
        except (InvalidRunError, UnavailableError):
            return "no sound long record beside it"
        return f"in the long record {arm} ends {found.value:.4f} [{found.low:.4f}, {found.high:.4f}] above {over}"

    return said


@pytest.fixture
def best():
    """Return what names the best of some arms by the seed that chose the rates, which judges no arm."""
    return lambda record, names: min(names, key=lambda name: chosen_nats(record, name))


def chosen_nats(record, arm):
    """Return what an arm's rate was chosen for: its lowest loss with the seed that judges nothing."""
    return min((nats for nats in record.grid_nats[arm] if nats is not None), default=inf)


def _mean(record, name):
    found = [nats for nats in record.held_out_nats[name] if nats is not None]
    return f"{sum(found) / len(found):.3f}" if found else "diverged"
