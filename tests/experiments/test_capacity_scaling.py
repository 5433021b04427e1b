"""Capacity over sizes: a curve that rises and then stays, a fit, partial records, and refusals."""

from pathlib import Path

import pytest

from gemma_bench.core.errors import BadInputError, InvalidRunError, UnavailableError
from gemma_bench.core.records import read_record, write_record
from gemma_bench.experiments import capacity_scaling as experiment
from gemma_bench.experiments.capacity_fit import FitRecord, fits
from gemma_bench.experiments.capacity_points import Found, Point
from gemma_bench.experiments.capacity_record import CapacityRecord, evidence, gain_percent
from gemma_bench.experiments.capacity_rows import Row
from gemma_bench.experiments.capacity_scaling import Config, run
from gemma_bench.training.stack.arms import Arm, Training
from gemma_bench.training.stack.shape import gemma3


def tiny_row(width, **fields):
    shape = gemma3(width, 1, symbols=16, length=8, hidden=2 * width)
    usual = {"ratios": (0.5, 5.4), "visits": 150, "rates": (0.03,), "training": Training(batch=16, warmup_steps=10)}
    return Row(shape=shape, **{**usual, **fields})


def test_a_curve_and_a_fit(tmp_path):
    config = Config(rows=(tiny_row(8, seeds=(0, 1)), tiny_row(12, rates=(0.001, 0.03))))
    first, second, fit = run(config)
    for record in (first, second):
        below, above = ([p for p in record.points() if p[0] == ratio] for ratio in (0.5, 5.4))
        shares = [[saved / ceiling for *_, saved, ceiling in points] for points in (below, above)]
        assert min(shares[0]) > 1.5 * max(shares[1]) > 0
        assert max(record.held_out_bits) <= 0
        assert record.visits_count == pytest.approx(150, rel=0.05)
    assert second.rate == 0.03
    assert len(first.samples) == 2
    assert first.last_doubling_percent < first.earlier_doubling_percent
    assert fit.sizes_parameters_counts == (first.parameters_count, second.parameters_count)
    assert fit.origin_low_bits_per_parameter <= fit.origin_bits_per_parameter <= fit.origin_high_bits_per_parameter
    assert read_record(write_record(first, tmp_path), CapacityRecord) == first
    assert read_record(write_record(fit, tmp_path), FitRecord) == fit
    assert fit.last_doubling_percent == (first.last_doubling_percent, second.last_doubling_percent)
    assert fit.data_over_capacity_ratio == pytest.approx([5.4 / r.capacity_bits_per_parameter for r in (first, second)])


def test_a_fit_of_earlier_code_is_still_read():
    folder = Path(__file__).parents[2] / "results/records/capacity_fit"
    (older,) = (read_record(path, FitRecord) for path in folder.glob("20261124T115558Z-*.json"))
    assert (older.last_doubling_percent, older.data_over_capacity_ratio) == ((), ())


def test_workers_find_what_one_process_finds():
    row = tiny_row(8, visits=30)
    one, two = (next(run(Config(rows=(row,), workers=workers))) for workers in (1, 2))
    assert one.saved_bits == pytest.approx(two.saved_bits, rel=0.02)


def test_workers_say_how_large_a_stack_would_fit():
    row = tiny_row(8, training=Training(batch=10**9))
    with pytest.raises(UnavailableError, match="the largest stack that fits has 0 models"):
        next(run(Config(rows=(row,), workers=2)))


def test_a_row_without_evidence_does_not_take_the_others_with_it():
    records = run(Config(rows=(tiny_row(8, rates=(1e30,)), tiny_row(8))))
    assert next(records).capacity_bits > 0
    with pytest.raises(InvalidRunError, match="no run above capacity is evidence"):
        next(records)


def test_a_row_without_room_does_not_take_the_fit_with_it():
    without_room = tiny_row(8, training=Training(batch=10**9))
    records = run(Config(rows=(tiny_row(8, visits=30), tiny_row(12, visits=30), without_room)))
    assert [type(next(records)) for _ in range(3)] == [CapacityRecord, CapacityRecord, FitRecord]
    with pytest.raises(UnavailableError, match="the largest stack that fits"):
        next(records)


def test_time_that_runs_out_cuts_the_visits_and_says_so():
    (record,) = run(Config(rows=(tiny_row(8, visits=100_000, rates=(0.003,)),), seconds=3.0))
    assert record.planned_visits_count == 100_000
    assert record.visits_count < 50_000


def test_known_lines_are_found():
    slope, intercept, origin = fits([100, 200, 400], [[4.0, 4.0], [3.5, 3.5], [3.25, 3.25]])
    assert slope == pytest.approx((3, 3, 3))
    assert intercept == pytest.approx(100)
    assert 3 < origin.value < 4


def found(seed, bits, ratio=5.4, diverged=None):
    return Found(Point(ratio, 10, Arm(seed, 0.1, 9)), 9, bits, 0.0, 0.0, diverged, True)


def test_a_gain_is_of_the_same_seed():
    assert gain_percent([found(0, 110), found(1, 240)], [found(1, 200), found(0, 100)]) == pytest.approx(15)
    assert gain_percent([found(0, 110)], []) is None


def test_a_seed_whose_large_data_diverged_is_no_capacity():
    whole = [found(0, 100, ratio=1.0), found(0, 300), found(1, 100, ratio=1.0), found(1, 0, diverged="the loss rose")]
    assert evidence(whole, "a row", 5.4) == whole[:2]
    with pytest.raises(InvalidRunError, match="a row: no run above capacity is evidence: the loss rose"):
        evidence(whole[2:], "a row", 5.4)


def test_every_preset_can_run():
    for name in ("FIXTURE", "STUDY", "LONG", "FULL"):
        for row in getattr(experiment, name).rows:
            row.check()
            assert row.sequences(1.0) >= 1
    (long,) = experiment.LONG.rows
    assert long.shape.parameter_count == 80_352
    assert (long.visits, long.ratios, len(long.seeds)) == (6400, (1.0, 5.4, 8.0), 2)
    assert max(row.shape.parameter_count for row in experiment.STUDY.rows) < 15_000


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        (Config(rows=()), BadInputError, "rows must be at least 1, got 0"),
        (Config(rows=(tiny_row(8, ratios=(1.0, 2.0), doubled_ratio=2.0),)), UnavailableError, "may fit whole"),
        (Config(rows=(tiny_row(8, ratios=(0.0, 5.4)),)), BadInputError, "ratios must be above 0"),
        (Config(rows=(tiny_row(8, visits=1),)), BadInputError, "at least 8 visits"),
        (Config(rows=(tiny_row(8),), workers=0), BadInputError, "workers must be at least 1, got 0"),
        (Config(rows=(tiny_row(8),), seconds=0.0), BadInputError, "seconds must be above 0, got 0"),
    ],
)
def test_what_could_not_show_a_capacity_is_refused(config, error, message):
    with pytest.raises(error, match=message):
        list(run(config))
