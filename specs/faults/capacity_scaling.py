"""Known-bad variants of chapter 3's stacks of tiny models."""

from unittest.mock import patch


def steps_in_place_of_visits():
    """Give every data size the same few steps: large sets then look as if nothing could be held."""
    from gemma_bench.experiments import capacity_scaling

    return patch.object(capacity_scaling, "steps_for", lambda visits, sequences, batch: 250)


def _read(**wrong):
    """Change fields of capacity records as they are read."""
    from gemma_bench.experiments.capacity_record import CapacityRecord

    right = CapacityRecord.__getattribute__

    def read(record, name):
        found = right(record, name)
        return wrong[name](record, found) if name in wrong else found

    return patch.object(CapacityRecord, "__getattribute__", read)


def halved_capacities():
    half = {f"capacity_{end}bits_per_parameter": lambda _, found: found / 2 for end in ("", "low_", "high_")}
    return _read(**half, last_doubling_percent=lambda *_: 0.0)


def bfloat16_that_holds_half():
    def half(record, found):
        return tuple(bits / 2 for bits in found) if record.dtype != "float32" else found

    return _read(samples=half)


def capacity_of_36_tenths():
    from gemma_bench.experiments.capacity_fit import FitRecord

    right = FitRecord.__getattribute__

    def read(record, name):
        return 3.6 if name.startswith("origin_") else right(record, name)

    return patch.object(FitRecord, "__getattribute__", read)
