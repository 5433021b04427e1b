"""Evidence of chapter 3 that comes from stacks of tiny models trained on random strings."""

import pytest

from gemma_bench.claims import Measured


@pytest.fixture(scope="session")
def curve(request):
    """Return the record of a capacity curve at fixture scale, in a fault run with fewer visits."""
    from gemma_bench.experiments.capacity_scaling import FIXTURE, run

    (row,) = FIXTURE.rows
    smaller = {"ratios": (0.25, 3.6, 7.2), "doubled_ratio": 3.6, "visits": 200} if request.config.option.faults else {}
    (record,) = run(FIXTURE.model_copy(update={"rows": (row.model_copy(update=smaller),)}))
    return record


@pytest.fixture
def share_below_capacity(curve):
    """Return the share of the data that is held where there is least of it, in percent."""
    ratio, _, saved, _ = min(curve.points())
    share = 100 * saved / (ratio_bits(curve, ratio))
    quarter = curve.capacity_bits_per_parameter / 4
    return share, f"{ratio:g} bits of data per parameter, a quarter of the capacity is {quarter:.2f}; {told(curve)}"


@pytest.fixture
def change_past_capacity(curve):
    """Return how memorised bits change when data that exceed capacity double, in percent."""
    from gemma_bench.core.errors import InvalidRunError, UnavailableError

    held = {ratio: saved for ratio, _, saved, _ in curve.points()}
    if {3.6, 7.2} - set(held):
        raise InvalidRunError("diverged", f"{curve.row}: {'; '.join(curve.diverged)}")
    if max(held) <= curve.capacity_bits_per_parameter or max(held) < 7.2:
        raise UnavailableError("data", f"data of {max(held):g} bits per parameter do not exceed capacity")
    return 100 * abs(held[7.2] / held[3.6] - 1), told(curve)


def ratio_bits(record, ratio):
    """Return the bits of the data of a point."""
    from math import log2

    at = record.data_bits_per_parameter.index(ratio)
    return record.sequences_counts[at] * record.length_tokens * log2(record.vocabulary_count)


def told(record):
    """Say a curve in words."""
    curve = ", ".join(f"{ratio:g}: {saved / record.parameters_count:.2f}" for ratio, _, saved, _ in record.points())
    return (
        f"{record.row}, {record.visits_count:.0f} visits per sequence, bits held per parameter by bits of data: {curve}; "
        f"the last doubling of visits gained {record.last_doubling_percent or 0:.1f} %"
    )


def require_data_above_capacity(record):
    """Refuse a record whose largest data do not exceed what its models held: they may have fitted whole."""
    from gemma_bench.core.errors import UnavailableError

    if (over := record.data_over_capacity()) <= 1:
        needed = max(record.sequences_counts) / over
        raise UnavailableError(
            "data",
            f"{record.row}: the largest data are {over:.2f} of capacity, more than {needed:,.0f} sequences would exceed it",
        )


@pytest.fixture
def above_capacity():
    """Return what refuses a record whose data may have fitted whole."""
    return require_data_above_capacity


def from_below(value, low, high, gains, allowed, samples=()):
    """Return capacity in bits per parameter; what still gains more than 2 % in a doubling of its visits is a lower bound.

    Its interval then reaches up to the end of what is allowed, which decides nothing but that capacity is above it.
    """
    bound = {}
    if any(gain is None or gain > 2 for gain in gains):
        high, bound = max(high, allowed.high), {"narrowed_by": "more visits of each sequence"}
    return Measured(value=value, low=low, high=high, unit="bits per parameter", samples=samples, **bound)


@pytest.fixture
def published_capacity(request):
    """Return what judges a record of the smallest published model: its bits per parameter over seeds."""
    from evidence.known_answers import capacity_of

    def judged(record, allowed):
        if request.config.option.faults:
            record = capacity_of(record, (allowed.low + allowed.high) / 2)
        require_data_above_capacity(record)
        ends = (getattr(record, f"capacity_{end}bits_per_parameter") for end in ("", "low_", "high_"))
        return from_below(*ends, [record.last_doubling_percent], allowed, record.samples), told(record)

    return judged


@pytest.fixture
def fitted_capacity(request):
    """Return what judges a fit over sizes: its ratio through the origin, with what it rests on."""
    from evidence.known_answers import fit_through

    from gemma_bench.core.errors import UnavailableError

    def judged(record, allowed):
        if request.config.option.faults:
            record = fit_through(record, 0.8 * allowed.low)
        over = min(record.data_over_capacity_ratio, default=None)
        if over is not None and over <= 1:
            raise UnavailableError(
                "data",
                f"the largest data are {over:.2f} of capacity: {1 / over:.2f} times the sequences would exceed it",
            )
        slope = "{:.2f} [{:.2f}, {:.2f}]".format(
            *(getattr(record, f"slope_{end}bits_per_parameter") for end in ("", "low_", "high_"))
        )
        reason = f"ratio through the origin; slope {slope}; single capacities {record.smallest_bits_per_parameter:.2f} to {record.largest_bits_per_parameter:.2f}"
        gains = record.last_doubling_percent
        gained = ", ".join("unknown" if gain is None else f"{gain:.1f} %" for gain in gains) or "not recorded"
        ends = (getattr(record, f"origin_{end}bits_per_parameter") for end in ("", "low_", "high_"))
        reason += f"; the last doubling of visits gained, by size: {gained}"
        return from_below(*ends, gains, allowed), reason

    return judged
