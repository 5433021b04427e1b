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
    if max(held) < SURELY_ABOVE * curve.capacity_bits_per_parameter or max(held) < 7.2:
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


SURELY_ABOVE = 1.2
"""A model never holds more than its data have: only data well above what it held were too many for it."""


def require_data_above_capacity(record):
    """Refuse a record whose largest data do not exceed what its models held by a fifth: they may have fitted whole."""
    from gemma_bench.core.errors import UnavailableError

    if (over := record.data_over_capacity()) < SURELY_ABOVE:
        needed = SURELY_ABOVE * max(record.sequences_counts) / over
        raise UnavailableError(
            "data",
            f"{record.row}: the largest data are {over:.2f} of capacity, {needed:,.0f} sequences would exceed it by a fifth",
        )


@pytest.fixture
def gain_over():
    """Return how much more one record's models hold than another's, seed by seed, in percent.

    Fewer visits of each sequence can only make the other's look smaller, which is the safe side of an upper limit.
    """
    from gemma_bench.core.errors import UnavailableError
    from gemma_bench.core.intervals import mean_interval

    def compared(more, less):
        for record in (more, less):
            require_data_above_capacity(record)
        if less.visits_count > more.visits_count:
            raise UnavailableError("visits", f"{more.row} had fewer visits of each sequence than {less.row}")
        held, other = (dict(zip(sorted(set(r.seeds)), r.samples, strict=True)) for r in (more, less))
        gains = [100 * (held[seed] / other[seed] - 1) for seed in sorted(held.keys() & other.keys())]
        reason = "; ".join(
            f"{record.dtype} {record.capacity_bits_per_parameter:.2f} bits per parameter after {record.visits_count:,.0f} visits"
            for record in (more, less)
        )
        return Measured.within(mean_interval(gains), "% more", gains), reason

    return compared


def from_below(value, low, high, gains, allowed, samples=()):
    """Return capacity in bits per parameter; what still gains more than 2 % in a doubling of its visits is a lower bound.

    Its interval then reaches past the end of what is allowed, which decides nothing but that capacity is above it.
    """
    from math import inf, nextafter

    bound = {}
    if any(gain is None or gain > 2 for gain in gains):
        high, bound = max(high, nextafter(allowed.high, inf)), {"narrowed_by": "more visits of each sequence"}
    return Measured(value=value, low=low, high=high, unit="bits per parameter", samples=samples, **bound)


@pytest.fixture
def smallest_published(recorded):
    """Return the newest record of the smallest published model in a precision, at the first of some scales that has one."""
    from evidence.low_rank_records import first_of

    from gemma_bench.experiments.capacity_scaling import VERSION, CapacityRecord

    from published.capacity import SMALLEST_PARAMETERS

    def at(dtype, *scales):
        def newest(scale):
            wanted = {"parameters_count": SMALLEST_PARAMETERS, "style": "gpt2", "dtype": dtype, "scale": scale}
            return recorded(
                "capacity_scaling", CapacityRecord, version=VERSION, where=lambda r: wanted.items() <= vars(r).items()
            )

        return first_of(newest, scales)

    return at


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
        if over is not None and over < SURELY_ABOVE:
            raise UnavailableError(
                "data",
                f"the largest data are {over:.2f} of capacity: {SURELY_ABOVE / over:.2f} times the sequences would do",
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
