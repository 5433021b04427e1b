"""What claims make of records: bounded from below or not, data that exceed capacity, and which scale is preferred."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from gemma_bench.claims.verdict import Verdict, decide, within_percent
from gemma_bench.core.errors import UnavailableError
from gemma_bench.experiments.capacity_record import CapacityRecord

ALLOWED = within_percent(3.6, 5)


@pytest.fixture
def evidence(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "specs"))
    from evidence import capacity_scaling, low_rank_records

    yield SimpleNamespace(**vars(capacity_scaling), first_of=low_rank_records.first_of)
    for name in [name for name in sys.modules if name.partition(".")[0] == "evidence"]:
        del sys.modules[name]


def verdict(evidence, value, *gains):
    return decide(evidence.from_below(value, value - 0.01, value + 0.01, gains, ALLOWED), ALLOWED)


def test_a_low_capacity_that_still_rises_refutes_nothing(evidence):
    assert verdict(evidence, 3.0, 0.5, 1.9).verdict is Verdict.REFUTED
    for gains in ((0.5, 2.1), (0.5, None)):
        found = verdict(evidence, 3.0, *gains)
        assert found.verdict is Verdict.INCONCLUSIVE
        assert "not more repetitions but more visits of each sequence may settle it" in found.reason
    assert verdict(evidence, 3.6, 2.1).verdict is Verdict.INCONCLUSIVE
    assert verdict(evidence, 4.5, 2.1).verdict is Verdict.REFUTED
    assert verdict(evidence, 3.6, 0.5).verdict is Verdict.HOLDS


def test_data_that_may_fit_whole_are_refused_with_how_many_would_not(evidence):
    def record(most):
        found = SimpleNamespace(
            row="a row",
            data_bits_per_parameter=(1.0, most),
            capacity_bits_per_parameter=4.2,
            sequences_counts=(100, 400),
        )
        found.data_over_capacity = lambda: CapacityRecord.data_over_capacity(found)
        return found

    evidence.require_data_above_capacity(record(8.0))
    with pytest.raises(UnavailableError, match=r"the largest data are 1\.10 of capacity, 438 sequences would exceed"):
        evidence.require_data_above_capacity(record(4.6))


def test_the_longer_training_is_preferred_where_there_is_one(evidence):
    def records(*there):
        def at(scale):
            if scale not in there:
                raise UnavailableError("record", f"no {scale}")
            return scale

        return at

    assert evidence.first_of(records("long", "study"), ("long", "study")) == "long"
    assert evidence.first_of(records("study"), ("long", "study")) == "study"
    with pytest.raises(UnavailableError, match="no study"):
        evidence.first_of(records(), ("long", "study"))
