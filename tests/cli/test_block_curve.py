"""`analyze blocks`: the curve of a record, its letters and its pattern, and what is said where there is none."""

import json

import pytest
from typer.testing import CliRunner

from gemma_bench.cli.app import app
from gemma_bench.cli.block_curve import curve_lines
from gemma_bench.core.errors import BadInputError
from gemma_bench.core.intervals import Interval
from gemma_bench.core.records import write_record
from gemma_bench.experiments.set_block_record import Way
from gemma_bench.experiments.set_block_speedup import FIXTURE, run

runner = CliRunner()


def way(tokens_per_pass, right, amount=None):
    return Way("sums", "set block", "entropy", 8, amount, Interval(right, 0, 1), Interval(tokens_per_pass, 0, 9), 1.5)


def test_a_point_is_where_its_figures_say():
    lines = list(curve_lines([way(1, 1.0), way(2, 0.5), way(4, 0.0)], width=9, height=3))
    assert lines == [
        " 100 % │  a",
        "  50 % │    b",
        "   0 % │        c",
        "       └─────────",
        "        04.0 tokens per pass",
    ]


def test_the_first_of_two_in_one_place_shows():
    assert "a" in "".join(curve_lines([way(1, 1.0), way(1, 1.0)]))
    assert "b" not in "".join(curve_lines([way(1, 1.0), way(1, 1.0)]))[:80]


def test_the_newest_clean_record_is_drawn_with_its_pattern(tmp_path):
    small = {"start_steps": 2, "tuning_steps": 2, "prompts": 4, "pool": 40, "mixtures": (("sums",),)}
    (record,) = run(FIXTURE.model_copy(update=small))
    write_record(record.model_copy(update={"commit_is_clean": True}), tmp_path)
    shown = runner.invoke(app, ["analyze", "blocks", "--results", str(tmp_path)])
    assert shown.exception is None
    assert "entropy 0.2, blocks of 8" in shown.output
    assert "tokens per pass" in shown.output
    assert record.pattern_prompt[0] in shown.output
    assert all(f" {nats:.2f} " in shown.output for nats in record.row_nats)
    told = json.loads(runner.invoke(app, ["analyze", "blocks", "--results", str(tmp_path), "--json"]).output)
    assert [line["tokens_per_pass"]["value"] for line in told] == list(record.row_tokens_per_pass)


def test_no_record_is_said_plainly(tmp_path):
    result = runner.invoke(app, ["analyze", "blocks", "--results", str(tmp_path)])
    assert isinstance(result.exception, BadInputError)
    assert "make one with `gemma-bench run set_block_speedup`" in str(result.exception)


def test_ways_name_themselves():
    assert str(way(1, 1, 0.2)) == "entropy 0.2, blocks of 8"
    assert pytest.approx(1) == way(1, 1).right.value
