"""How chapter 4 reads a record of what steps cost."""

from gemma_bench.claims import Measured


def less_time_percent(record) -> Measured:
    """Return how much less time a step takes than the first method's, in percent of that."""
    low, value, high = (
        100 * (1 - ratio)
        for ratio in (record.over_first_high_ratio, record.over_first_ratio, record.over_first_low_ratio)
    )
    return Measured(value=value, low=low, high=high, unit="% less time", samples=record.samples)


def smallest_effect(record) -> str:
    """Return the smallest difference that the record's rounds could have told from none."""
    return "nobody knows what" if record.smallest_effect_percent is None else f"{record.smallest_effect_percent:.1f} %"
