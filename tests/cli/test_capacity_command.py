"""`analyze capacity`: arithmetic that says what it is."""

import json

import pytest

from gemma_bench.models.catalog import SIZES


def test_12b_would_hold_42_gigabits(gemma_bench):
    found = json.loads(gemma_bench("analyze", "capacity", "12b", "--results", "nowhere", "--json").out)
    (row,) = found["slopes"]
    assert row["capacity_bits"] == pytest.approx(42.36e9, rel=1e-3)
    assert row["slope"] == "published"
    assert row["random_tokens"] * 18 == pytest.approx(row["capacity_bits"])
    assert found["parameters_count"] == SIZES["12b"].parameter_count


def test_it_says_that_it_is_an_extrapolation(gemma_bench):
    for output in (("--json",), ()):
        assert "An extrapolation, not a measurement" in gemma_bench("analyze", "capacity", "12b", *output).out


def test_the_table_shows_bits_and_bytes(gemma_bench):
    said = gemma_bench("analyze", "capacity", "12b").out
    assert "42.4 Gbit" in said
    assert "5.29 GB" in said
    assert "965 Mbit" in gemma_bench("analyze", "capacity", "270m").out


def test_another_slope_scales_it(gemma_bench):
    found = json.loads(
        gemma_bench("analyze", "capacity", "270m", "--bits-per-parameter", "1.8", "--results", "nowhere", "--json").out
    )
    (row,) = found["slopes"]
    assert row["slope"] == "given"
    assert row["capacity_bits"] == pytest.approx(1.8 * SIZES["270m"].parameter_count)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["13b"], "unknown model '13b', expected one of tiny, 270m"),
        (["12b", "--bits-per-parameter", "0"], "bits per parameter must be above 0 and at most 32, got 0"),
        (["12b", "--bits-per-parameter", "33"], "bits per parameter must be above 0 and at most 32, got 33"),
        (["12b", "--bits-per-parameter", "nan"], "bits per parameter must be above 0 and at most 32, got nan"),
    ],
)
def test_what_is_wrong_is_one_sentence(gemma_bench, arguments, message):
    done = gemma_bench("analyze", "capacity", *arguments)
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err


def test_the_largest_slope_of_our_own_is_shown_beside_the_published_one(gemma_bench, tmp_path):
    from gemma_bench.cli.capacity import MeasuredSlope
    from gemma_bench.core.records import Subject, write_record

    for parameters, dtype in ((4_064, "float32"), (80_352, "float32"), (90_000, "bfloat16")):
        record = MeasuredSlope.measured(
            Subject(dtype=dtype),
            experiment="capacity_scaling",
            experiment_version=1,
            config_json=str(parameters),
            scale="study",
            samples=(2.5,),
            parameters_count=parameters,
            capacity_bits_per_parameter=2.5,
            visits_count=600.0,
            last_doubling_percent=3.1,
        )
        write_record(record.model_copy(update={"commit_is_clean": True}), tmp_path)
    found = json.loads(gemma_bench("analyze", "capacity", "12b", "--results", tmp_path, "--json").out)
    assert [row["slope"] for row in found["slopes"]] == [
        "published",
        "measured, 80,352 parameters, at least, after 600 visits; the last doubling gained 3.1 %",
    ]
    assert found["slopes"][1]["capacity_bits"] == pytest.approx(2.5 * SIZES["12b"].parameter_count)
