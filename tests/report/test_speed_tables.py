"""The page's speed table: the newest rows of each machine, wrong ones compared with nothing, everything escaped."""

import json
import re
import shutil
from html import unescape
from pathlib import Path

import pytest

from gemma_bench.claims.ledger import read_ledger
from gemma_bench.core.records import read_record
from gemma_bench.experiments.speed_table import VERSION, TableRecord
from gemma_bench.report.markdown import speed_markdown
from gemma_bench.report.page import render_page, write_page
from gemma_bench.report.speed_tables import SpeedTable, SpeedTables, read_speed_tables

SAMPLE = Path(__file__).parent / "sample"
ROWS = [
    "270m torch cpu bfloat16",
    "270m torch cpu float32",
    "270m mlx cpu bfloat16",
    "270m-4bit torch cpu",
    "270m-4bit mlx cpu",
]


@pytest.fixture
def root(tmp_path):
    """A project with the sample's speed records, which a test may add to or damage."""
    shutil.copytree(SAMPLE / "results" / "records" / "speed_table", folder(tmp_path))
    return tmp_path


def folder(root):
    return root / "results" / "records" / "speed_table"


def table():
    return read_speed_tables(SAMPLE).tables[0]


def changed(root, **fields):
    """Write a copy of the first row's record under a later date, with other fields."""
    record = table().first.model_copy(update={"date_utc": "2026-03-10T00:00:00Z", **fields})
    (folder(root) / record.file_name).write_text(record.model_dump_json())


def page_of(*rows, problems=()):
    tables = (SpeedTable("a-machine", tuple((f"{row.row}.json", row) for row in rows)),) if rows else ()
    return render_page(read_ledger(SAMPLE / "ledger.json"), {}, SpeedTables(tables, problems))


def cells(page, row):
    """Return the text of one row's cells by their heads."""
    found = re.search(rf'<th scope="row">{re.escape(row)} <span.*?</th>(.*?)</tr>', page, re.DOTALL)
    heads = re.findall(r'<td data-head="([^"]+)">(.*?)</td>', found.group(1), re.DOTALL)
    return {
        head: " ".join(unescape(re.sub(r"<title>.*?</title>|<[^>]*>|&#xFE0E;", "", cell)).split())
        for head, cell in heads
    }


class TestReading:
    def test_rows_stand_in_the_order_of_their_configuration(self):
        found = read_speed_tables(SAMPLE)
        assert found.problems == ()
        assert [row.row for _, row in found.tables[0].rows] == ROWS
        for path, row in found.tables[0].rows:
            assert read_record(SAMPLE / path, TableRecord) == row

    def test_a_newer_record_of_a_row_takes_its_place(self, root):
        changed(root, decode_tokens_per_s=19.6)
        rates = [row.decode_tokens_per_s for _, row in read_speed_tables(root).tables[0].rows]
        assert rates[0] == 19.6
        assert len(rates) == len(ROWS)

    def test_another_configuration_is_another_table(self, root):
        config = json.loads(table().first.config_json) | {"new_tokens": 99}
        changed(root, config_json=json.dumps(config), new_count_tokens=99)
        (found,) = read_speed_tables(root).tables
        assert [row.new_count_tokens for _, row in found.rows] == [99]

    def test_each_machine_has_its_own_newest_first(self, root):
        changed(root, machine_id="another")
        assert [one.machine_id for one in read_speed_tables(root).tables] == ["another", table().machine_id]

    def test_a_record_of_an_older_version_is_left_out_whatever_its_fields(self, root):
        old = table().first.model_dump(mode="json") | {"experiment_version": 1, "machine_id": "old"}
        del old["perplexity"]
        (folder(root) / "20270101T000000Z-old.json").write_text(json.dumps(old))
        assert read_speed_tables(root) == read_speed_tables(SAMPLE)

    @pytest.mark.parametrize(
        "change", [{"commit_is_clean": False}, {"experiment_version": VERSION + 1}, {"is_complete": False}]
    )
    def test_uncommitted_interrupted_and_other_versions_are_left_out(self, root, change):
        changed(root, decode_tokens_per_s=1.0, **change)
        assert read_speed_tables(root).tables[0].first == table().first

    def test_a_damaged_record_is_named_and_stops_nothing(self, root):
        (folder(root) / "20270101T000000Z-x.json").write_text('{"schema_version": 1}')
        found = read_speed_tables(root)
        assert len(found.tables[0].rows) == len(ROWS)
        assert re.match(r"record results/records/speed_table/20270101T000000Z-x.json, field \w+: ", found.problems[0])
        page = write_page(read_ledger(SAMPLE / "ledger.json"), root, root / "page.html").read_text()
        assert page.count("unreadable record: ") == 1
        assert str(root) not in page

    def test_no_records_make_no_table(self, tmp_path):
        assert read_speed_tables(tmp_path) == SpeedTables()
        assert 'id="speed"' not in page_of()
        assert 'href="#speed"' not in page_of()


class TestRendering:
    def test_a_row_says_rate_share_ratio_output_and_record(self):
        page = page_of(*(row for _, row in table().rows))
        mlx = cells(page, "270m mlx cpu bfloat16")
        assert mlx == {
            "decode": "3.262 [3.247, 3.273]",
            "perplexity": "not measured",
            "of the ceiling": "7 % of 25 GB/s",
            "over the first": "0.167 × [0.1621, 0.1682]",
            "output": "✓ correct",
        }
        assert cells(page, ROWS[0])["over the first"] == "1 ×"
        assert cells(page, ROWS[0])["perplexity"] == "14.44"
        assert "perplexity of the first 1,024 tokens of GPL-3" in page
        assert page.count("<summary>record of 2026-03-09</summary>") == len(ROWS)
        assert "270m mlx cpu bfloat16.json" in page

    def test_weights_and_shorter_generations_are_said_beside_the_row(self):
        mixed = {"row": "270m-mixed torch cpu", "weights_origin": "base; embedding 4 bits", "new_count_tokens": 4}
        page = page_of(table().first, table().first.model_copy(update=mixed))
        assert '270m-mixed torch cpu <span class="range">embedding 4 bits; writes 4</span>' in page
        assert '270m torch cpu bfloat16 <span class="range">bfloat16</span>' in page

    def test_a_table_in_which_no_row_read_the_text_names_none(self):
        page = page_of(table().first.model_copy(update={"perplexity": None, "text_count_tokens": 0}))
        assert "perplexity of the first" not in page

    def test_bars_are_as_long_as_their_shares(self):
        page = page_of(*(row for _, row in table().rows))
        widths = [float(width) for width in re.findall(r'class="bar" width="([\d.]+)"', page)]
        assert widths == [round(row.bandwidth_share_percent, 2) for _, row in table().rows]

    def test_a_share_above_the_ceiling_stays_in_its_frame(self):
        page = page_of(table().first.model_copy(update={"bandwidth_share_percent": 140.0}))
        assert 'class="bar" width="100"' in page
        assert cells(page, ROWS[0])["of the ceiling"].startswith("140 %")

    def test_wrong_output_is_compared_with_nothing(self):
        page = page_of(*(row for _, row in table().rows))
        wrong = cells(page, "270m-4bit torch cpu")
        assert wrong["over the first"] == "not compared"
        assert wrong["output"] == "✗ wrong a token 12.22 nats behind the best"

    def test_no_finite_logits_are_said(self):
        row = table().first.model_copy(
            update={"has_finite_logits": False, "largest_gap_nats": None, "output_is_correct": False}
        )
        assert cells(page_of(row), ROWS[0])["output"] == "✗ wrong no finite logits"

    def test_a_broken_rule_is_named_and_compared_with_nothing(self):
        invalid = cells(page_of(*(row for _, row in table().rows)), "270m torch cpu float32")
        assert invalid["over the first"] == "not compared"
        assert "⊘ invalid, other load: others kept 0.6 cores busy" in invalid["output"]

    @pytest.mark.parametrize("field", ["row", "chip", "os", "model_id", "reference", "broken_rules"])
    def test_markup_in_a_record_is_shown_as_text(self, field):
        attack = "\"><script>alert('x')</script><img src=x onerror=alert(1)>"
        value = (attack,) if field == "broken_rules" else attack
        page = page_of(table().first.model_copy(update={field: value}), problems=(attack,))
        assert page.count("<script>") == 1
        assert "<img" not in page
        assert attack in unescape(page)


class TestMarkdown:
    def test_a_row_says_rate_perplexity_share_and_ratio(self):
        text = speed_markdown(read_speed_tables(SAMPLE))
        lines = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in rows_of(text)}
        assert list(lines) == ROWS
        assert lines["270m torch cpu bfloat16"] == ["bfloat16", "**19.57** [19.31, 20.12]", "14.44", "41 %", "1 ×"]
        assert lines["270m mlx cpu bfloat16"][2] == "–"
        assert lines["270m-4bit torch cpu"][-1] == "not compared: wrong output"
        assert lines["270m torch cpu float32"][-1].startswith("not compared: other load: others kept 0.6")
        assert text.endswith("batch 1, with 95 % intervals; perplexity of the first 1,024 tokens of GPL-3.")

    def test_without_a_record_it_says_how_to_get_one(self):
        assert "gemma-bench run speed_table --scale study" in speed_markdown(SpeedTables())


def rows_of(text):
    return [line for line in text.split("\n") if line.startswith("| 270m")]
