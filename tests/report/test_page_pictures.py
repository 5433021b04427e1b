"""Charts show what records hold: drawn figures are read back, and the page and the files are the same, escaped."""

import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

from gemma_bench.claims.ledger import read_ledger
from gemma_bench.core.records import read_record, write_record
from gemma_bench.core.units import number
from gemma_bench.report.chart import WIDTH, Bar, Bars, Cells, Dot, Dots, Lines, Series, Text
from gemma_bench.report.chart_layout import laid_out
from gemma_bench.report.page import read_records, render_page, write_page
from gemma_bench.report.page_pictures import KINDS, read_pictures, write_pictures

SAMPLE = Path(__file__).parent / "sample"
DRAWN = {"capacity_scaling", "layer_capacity", "low_rank_training", "step_cost", "set_block_speedup"}


@pytest.fixture
def project(tmp_path):
    """Copy the sample's records."""
    shutil.copytree(SAMPLE / "results", tmp_path / "results")
    return tmp_path


@pytest.fixture(scope="module")
def pictures():
    return {picture.experiment: picture for picture in read_pictures(SAMPLE).pictures}


def only(root, experiment):
    (path,) = (root / "results" / "records" / experiment).glob("*.json")
    return path


def shapes(chart, kind):
    return [shape for shape in laid_out(chart).shapes if kind in getattr(shape, "kind", "").split()]


class TestRecords:
    def test_every_experiment_with_a_clean_record_is_drawn(self, pictures):
        assert set(pictures) == DRAWN
        assert read_pictures(SAMPLE).problems == ()

    def test_kinds_name_experiments(self):
        from gemma_bench.experiments.index import experiments

        assert set(KINDS) <= set(experiments())

    def test_bars_are_as_long_as_the_bytes(self, pictures):
        bars, _ = pictures["step_cost"].charts
        assert [bar.group for bar in bars.bars[::3]] == ["full", "lora, rank 128", "relora, rank 128", "rank1"]
        drawn = shapes(bars, "part")
        record = [bar for bar in bars.bars if bar.name == "measured"]
        longest = max(sum(bar.parts) for bar in bars.bars)
        full = max(sum(part.width for part in drawn if part.y == y) for y in {part.y for part in drawn})
        for bar in record:
            for kind, part in zip(bars.kinds, bar.parts, strict=True):
                found = [one for one in drawn if one.title == f"measured, {kind}: {number(part)} bytes"]
                assert part < longest / 1e5 or any(
                    one.width == pytest.approx(full * part / longest, abs=0.02) for one in found
                )

    def test_the_process_is_shown_beside_what_it_holds(self, pictures):
        bars, _ = pictures["step_cost"].charts
        process = [bar for bar in bars.bars if bar.name == "process"]
        measured = [bar for bar in bars.bars if bar.name == "measured"]
        assert len(process) == len(measured) == 4
        for whole, held in zip(process, measured, strict=True):
            assert set(whole.parts[:-1]) == {0}
            assert whole.parts[-1] > sum(held.parts)

    def test_curves_are_the_means_over_seeds(self, pictures):
        from gemma_bench.experiments.arms_record import ArmsRecord

        loss, _, _, rank, _, ends, _, way = pictures["low_rank_training"].charts
        found = read_record(only(SAMPLE, "low_rank_training"), ArmsRecord)
        assert all(one.y[0] == pytest.approx(sum(found.start_nats) / 3) for one in loss.series)
        assert loss.series[0].x == (0, *found.read_steps)
        assert [one.y for one in ends.series] == [tuple(sorted(found.held_out_nats[one.name])) for one in ends.series]
        for chart, columns in ((loss, found.curve_nats), (rank, found.effective_rank)):
            for one in chart.series:
                means = [sum(column) / 3 for column in zip(*columns[one.name], strict=True)]
                assert one.y[-len(means) :] == pytest.approx(means)
                assert all(low <= y <= high for low, y, high in zip(one.low, one.y, one.high, strict=True))
        assert way.shades == found.trajectory["relora"]

    def test_held_bits_are_per_parameter_and_reach_a_plateau(self, pictures):
        (curve,) = pictures["capacity_scaling"].charts[0].series
        assert curve.x == (0.5, 1, 2, 4, 8)
        assert curve.y[0] == pytest.approx(0.495, abs=0.01)
        assert curve.y[-1] == pytest.approx(curve.y[-2], rel=0.02)

    def test_quality_is_drawn_against_passes(self, pictures):
        quality, losses, _ = pictures["set_block_speedup"].charts
        (eight,) = (one for one in quality.series if one.name == "entropy, block 8")
        assert list(eight.x) == sorted(eight.x) == [2.1, 3.0, 3.9, 5.0]
        assert eight.y == pytest.approx([93, 92, 90, 82])
        assert [dot.value for dot in losses.dots] == [0.2, 0.012, 0.0]

    def test_every_control_has_its_name(self):
        chart = next(KINDS["set_block_speedup"].charts([self.with_both_controls()]))
        assert chart.marks == [(94, "equal tokens, one by one"), (60, "equal compute, one by one")]
        near = self.with_both_controls().model_copy(update={"row_right_ratio": (0.93,) * 2 + (0.94,) * 9})
        chart = next(KINDS["set_block_speedup"].charts([near]))
        assert chart.marks == [(94, "equal compute and equal tokens, one by one"), (93, "")]

    def test_nats_are_drawn_where_hardly_an_answer_is_right(self):
        record = self.with_both_controls()
        some, few = (record.model_copy(update={"row_right_ratio": (right,) * 11}) for right in (0.2, 0.02))
        assert len(list(KINDS["set_block_speedup"].charts([some]))) == 3
        _, chart, *_ = KINDS["set_block_speedup"].charts([few])
        (eight,) = (one for one in chart.series if one.name == "entropy, block 8")
        assert list(zip(eight.x, eight.y, strict=True)) == [(2.1, 4.0), (3.0, 5.0), (3.9, 6.0), (5.0, 7.0)]
        assert (chart.y_label, eight.low, chart.marks[-1][0]) == ("nats per token", (), 0.0)

    def test_more_ways_than_a_chart_can_tell_apart_have_one_for_each_block(self):
        record = self.with_both_controls()
        blocks = tuple(10 * block if block > 1 else 1 for block in record.row_block_tokens)
        lines = {name: 2 * getattr(record, name) for name in type(record).model_fields if name.startswith("row_")}
        wide = record.model_copy(update={**lines, "row_block_tokens": record.row_block_tokens + blocks})
        *qualities, _, _ = KINDS["set_block_speedup"].charts([wide])
        sizes = sorted({block for block in wide.row_block_tokens if block > 1})
        assert [one.title for one in qualities] == [
            f"Right answers, by tokens per pass: record, blocks of {size}" for size in sizes
        ]
        for size, chart in zip(sizes, qualities, strict=True):
            assert {one.name.rpartition(" ")[2] for one in chart.series} == {"time", str(size)}

    def with_both_controls(self):
        """The sample with a second control in the place of the start, and nats that tell the lines apart."""
        from gemma_bench.experiments.set_block_speedup import SetBlockRecord

        record = read_record(only(SAMPLE, "set_block_speedup"), SetBlockRecord)
        models = ("equal compute", *record.row_model[1:])
        return record.model_copy(update={"row_model": models, "row_nats": tuple(map(float, range(11)))})

    def test_every_token_is_dark_in_the_pass_that_wrote_it_alone(self, pictures):
        pattern = pictures["set_block_speedup"].charts[-1]
        fixed = [next(row for row, shades in enumerate(pattern.shades) if shades[at] == 1) + 1 for at in range(14)]
        assert fixed == [1, 2, 2, 3, 3, 3, 3, 3, 3, 4, 2, 2, 5, 5]
        assert "".join(pattern.texts[fixed[at] - 1][at] for at in range(14)) == "Ada,␣born␣1815"
        assert len(shapes(pattern, "cell")) == 5 * 14

    def test_what_is_not_clean_not_current_or_of_another_scale_is_not_drawn(self, project):
        from gemma_bench.experiments.layer_capacity import LayerRecord

        record = read_record(only(project, "layer_capacity"), LayerRecord)
        later = {"date_utc": "2026-04-01T00:00:00Z"}
        for change in ({"commit_is_clean": False}, {"experiment_version": 99, "date_utc": "2026-02-01T00:00:00Z"}):
            write_record(record.model_copy(update={**later, "config_json": str(change), **change}), project / "results")
        (picture,) = read_pictures(project).of(["layer_capacity"])
        assert picture.records == (only(SAMPLE, "layer_capacity").relative_to(SAMPLE).as_posix(),)
        write_record(record.model_copy(update={**later, "scale": "fixture"}), project / "results")
        (picture,) = read_pictures(project).of(["layer_capacity"])
        assert picture.scale == "fixture"

    def test_rows_of_a_capacity_curve_are_drawn_at_every_scale_the_newest_of_each(self, project):
        from gemma_bench.experiments.capacity_record import CapacityRecord

        record = read_record(only(project, "capacity_scaling"), CapacityRecord)
        more = {"study": ("a", "2026-05-01"), "full": ("b", "2026-04-01"), "fixture": ("c", "2026-06-01")}
        for scale, (row, date) in more.items():
            for older in (False, True):
                change = {"scale": scale, "row": row, "config_json": f"{row} {older}", "parameters_count": 1000 + older}
                change["date_utc"] = f"{date.replace('2026', '2025') if older else date}T00:00:00Z"
                write_record(record.model_copy(update=change), project / "results")
        (picture,) = read_pictures(project).of(["capacity_scaling"])
        assert picture.scale == "study, full, long"
        assert [len(chart.series) for chart in picture.charts[:1]] == [3]
        assert len(picture.records) == 3

    def test_a_step_is_drawn_once_whatever_was_timed_beside_it(self, project):
        from gemma_bench.experiments.step_cost import StepRecord

        path = min((project / "results" / "records" / "step_cost").glob("*.json"))
        record = read_record(path, StepRecord)
        newer = {"config_json": f"{record.config_json} ", "date_utc": "2027-01-01T00:00:00Z"}
        written = write_record(record.model_copy(update=newer), project / "results")
        (picture,) = read_pictures(project).of(["step_cost"])
        assert written.relative_to(project).as_posix() in picture.records
        assert path.relative_to(project).as_posix() not in picture.records

    def test_a_diverged_arm_has_no_line_and_is_said_to_have_diverged(self, project):
        from gemma_bench.experiments.arms_record import ArmsRecord

        record = read_record(only(project, "low_rank_training"), ArmsRecord)
        nats = {**record.held_out_nats, "lora": (None, 1.4, 1.5)}
        write_record(
            record.model_copy(
                update={"diverged_arms": ("lora",), "held_out_nats": nats, "date_utc": "2026-04-01T00:00:00Z"}
            ),
            project / "results",
        )
        (picture,) = read_pictures(project).of(["low_rank_training"])
        assert [one.name for one in picture.charts[0].series] == ["full", "relora"]
        assert [dot.name for dot in picture.charts[1].dots] == ["full", "lora (diverged)", "relora"]

    def test_where_all_arms_diverged_what_has_nothing_to_show_is_left_out(self, project):
        from gemma_bench.experiments.arms_record import ArmsRecord

        record = read_record(only(project, "low_rank_training"), ArmsRecord)
        changes = {"diverged_arms": record.arms, "held_out_nats": dict.fromkeys(record.arms, (None,) * 3)}
        write_record(record.model_copy(update={**changes, "date_utc": "2026-04-01T00:00:00Z"}), project / "results")
        assert read_pictures(project).of(["low_rank_training"]) == []
        assert list(write_pictures(project))

    def test_a_damaged_record_is_named_and_stops_nothing(self, project):
        path = only(project, "layer_capacity")
        path.write_text(path.read_text().replace('"whole_bits"', '"colour"'))
        found = read_pictures(project)
        assert {picture.experiment for picture in found.pictures} == DRAWN - {"layer_capacity"}
        (problem,) = found.problems
        assert "layer_capacity" in problem
        assert str(project) not in problem
        page = write_page(read_ledger(SAMPLE / "ledger.json"), project, project / "page.html").read_text()
        assert "no picture: " in page


@pytest.fixture(scope="module")
def page():
    ledger = read_ledger(SAMPLE / "ledger.json")
    return render_page(ledger, read_records(ledger, SAMPLE), pictures=read_pictures(SAMPLE))


def test_costs_are_dots_with_their_intervals():
    rules = [
        SimpleNamespace(
            rule=rule,
            batch_size_count=rows,
            length_count_tokens=64,
            step_ms=ms,
            over_lora_ratio=over,
            over_lora_low_ratio=over - 0.1,
            over_lora_high_ratio=2,
        )
        for rule, rows, ms, over in (("top_pair", 1, 123.4, 1.5), ("sign", 1, 12.34, 1.0), ("sign", 4, 50.0, 1.0))
    ]
    one_row, four_rows = KINDS["rank_one_cost"].charts(rules)
    assert one_row.dots == [Dot("sign (12.3 ms)", 1.0, 0.9, 2), Dot("top pair (123 ms)", 1.5, 1.4, 2)]
    assert four_rows.title == "Time of a step of 4 × 64 tokens by rank-1 rule"
    ends = {"speedup_ratio": 2.0, "speedup_low_ratio": 1.8, "speedup_high_ratio": 2.1}
    what = {"backend": "mlx", "device": "cpu", "dtype": "bfloat16", "block_tokens": 16}
    record = SimpleNamespace(**what, passes_saving_ratio=3.0, predicted_speedup_ratio=2.5, **ends)
    (chart,) = KINDS["set_block_time"].charts([record])
    assert [dot.value for dot in chart.dots] == [3.0, 2.5, 2.0]
    assert (chart.dots[-1].low, chart.dots[-1].high) == (1.8, 2.1)
    assert chart.title.endswith("mlx, cpu, bfloat16, blocks of 16")


class TestPage:
    def test_a_picture_stands_under_the_headline_whose_claims_read_its_record(self, page):
        headline = page[: page.index('id="picture-capacity_scaling"')].rpartition('data-headline="')[2]
        ledger = read_ledger(SAMPLE / "ledger.json")
        named = [entry.headline for entry in ledger.claims if "/capacity_scaling/" in (entry.record or "")]
        assert headline.startswith(named[0][:20])
        assert page.index('id="more"') < page.index('id="picture-step_cost"')
        assert page.count('<figure class="picture"') == len(DRAWN)

    def test_nothing_is_loaded_and_no_colour_is_fixed(self, page):
        charts = "".join(re.findall(r'<svg class="chart".*?</svg>', page, re.DOTALL))
        assert len(charts) > 10_000
        assert not re.search(r"https?://|url\(|#[0-9a-f]{6}|style=", charts)


class TestFiles:
    def test_files_are_the_pages_charts(self, project, pictures):
        paths = list(write_pictures(project))
        assert {path.stem for path in paths} == DRAWN
        for path in paths:
            text = path.read_text()
            root = ElementTree.fromstring(text)  # noqa: S314 - our own
            assert len(root.findall("{http://www.w3.org/2000/svg}svg")) == len(pictures[path.stem].charts)
            words = "".join(root.itertext())
            assert all(one.text in words for chart in pictures[path.stem].charts for one in labels(chart))
            assert "light-dark" not in text

    def test_markup_in_a_record_is_text(self, project):
        from gemma_bench.experiments.arms_record import ArmsRecord

        path = only(project, "low_rank_training")
        path.write_text(path.read_text().replace('"relora"', '"<script>relora</script>"'))
        assert read_record(path, ArmsRecord)
        ledger = read_ledger(SAMPLE / "ledger.json")
        page = render_page(ledger, {}, pictures=read_pictures(project))
        assert page.count("<script>") == 1
        assert "&lt;script&gt;relora" in page
        (text,) = (one.read_text() for one in write_pictures(project) if one.stem == "low_rank_training")
        ElementTree.fromstring(text)  # noqa: S314 - our own


def labels(chart):
    return [shape for shape in laid_out(chart).shapes if isinstance(shape, Text)]


class TestLayout:
    CHARTS = (
        Lines("t" * 120, "x", "y", [Series(f"arm {n}", (1, 10, 1e5), (n, 2 * n, n)) for n in range(12)], x_is_log=True),
        Lines("one point", "x", "y", [Series("", (3,), (3,))], x_is_log=True, y_is_log=True, from_zero=True),
        Lines("narrow", "x", "y", [Series("a", (3, 4), (1.00001, 1.00002))], x_is_log=True, marks=[(1, "m")]),
        Bars("bars", "bytes", ("a", "b"), [Bar("one", (0, 0), "0"), Bar("another", (3e12, 1), "3 TB", "group")]),
        Dots("dots", "unit", [Dot("a name", -1e9, -2e9, 3), Dot("b", 0, 0, 0, (1, 2))], mark=0),
        Cells("cells", "unit", ["row"], [str(n) for n in range(40)], [[0.5] * 40], [["0.123"] * 40]),
    )

    @pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: chart.title[:9])
    def test_everything_lies_inside(self, chart):
        drawing = laid_out(chart)
        for shape in drawing.shapes:
            if shape.tag == "text":
                assert -0.1 <= shape.y <= drawing.height
                assert -0.1 <= shape.x <= WIDTH + 0.1
            elif shape.tag == "rect":
                assert shape.x + shape.width <= WIDTH + 0.1
                assert 0 <= shape.opacity <= 1
            else:
                x, y = map(float, re.match(r"M([-\d.]+) ([-\d.]+)", shape.d).groups())
                assert -0.1 <= x <= WIDTH + 0.1
                assert -0.1 <= y <= drawing.height

    def test_higher_figures_are_higher_and_later_ones_further_right(self):
        chart = Lines("t", "x", "y", [Series("a", (1, 2, 3), (10, 30, 20))])
        at = [tuple(map(float, re.match(r"M([\d.]+) ([\d.]+)", point.d).groups())) for point in shapes(chart, "point")]
        xs, ys = zip(*at, strict=True)
        assert list(xs) == sorted(xs)
        assert ys[1] < ys[2] < ys[0]
        assert [point.title for point in shapes(chart, "point")] == ["a: 10 at 1", "a: 30 at 2", "a: 20 at 3"]

    def test_series_differ_without_colours(self):
        chart = Lines("t", "x", "y", [Series(str(n), (1,), (1,)) for n in range(4)])
        assert len({re.sub(r"^M\S+ \d\S*?m", "m", point.d) for point in shapes(chart, "point")}) == 4
