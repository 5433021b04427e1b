"""Records with known answers: what a fault run judges where a real record may leave a claim undecided.

A fault is caught where it reverses a judgement, and an undecided one cannot be reversed. Nothing here is evidence.
"""


def peak_at_nine_tenths(record):
    """Return a double descent whose test loss rises up to nine tenths of capacity and falls behind it."""
    runs = zip(record.steps_counts, record.seeds, record.data_bits, strict=True)
    ratios = [data / record.capacity(steps, seed) for steps, seed, data in runs]
    return record.model_copy(update={"test_bits_per_token": tuple(10 - 5 * abs(ratio - 0.9) for ratio in ratios)})


def capacity_of(record, bits_per_parameter):
    """Return a capacity of so many bits per parameter with every seed, which further visits do not raise."""
    figures = {f"capacity_{end}bits_per_parameter": bits_per_parameter for end in ("", "low_", "high_")}
    samples = tuple(bits_per_parameter for _ in record.samples)
    return record.model_copy(update={**figures, "samples": samples, "last_doubling_percent": 0.0})


def fit_through(record, bits_per_parameter):
    """Return a fit of so many bits per parameter through the origin, which further visits do not raise."""
    origin = {f"origin_{end}bits_per_parameter": bits_per_parameter for end in ("", "low_", "high_")}
    return record.model_copy(
        update={**origin, "last_doubling_percent": tuple(0.0 for _ in record.sizes_parameters_counts)}
    )


def same_at_every_depth(record):
    """Return marginal capacities of 2.8 bits per parameter in every block, with every seed."""
    return record.model_copy(
        update={"marginal_bits_per_parameter": tuple(2.8 for _ in record.marginal_bits_per_parameter)}
    )


def faster_and_surer(record, than):
    """Return a row of the speed table that decodes a fifth faster than another, and whose every token is 0.01 nats surer."""
    rates, nats = [1.2 * rate for rate in than.samples], [one - 0.01 for one in than.token_nats]
    return record.model_copy(update={"samples": tuple(rates), "token_nats": tuple(nats)})


def a_fifth_faster(record):
    """Return a step that takes four fifths of the first method's time."""
    ratios = (f"over_first_{end}ratio" for end in ("", "low_", "high_"))
    return record.model_copy(update=dict.fromkeys(ratios, 0.8))
