"""The page as text: complete, escaped, self-contained, and drawn where the figures are."""

import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gemma_bench.claims.claim import SCALES, Kind
from gemma_bench.claims.ledger import Entry, Figure, Ledger, read_ledger
from gemma_bench.claims.verdict import Allowed, Verdict, at_least, at_most, between, exactly
from gemma_bench.report.interval_plot import PLOT_WIDTH, Axis, Strip, plot_of
from gemma_bench.report.page import GLYPHS, read_records, render_page, write_page

SAMPLE = Path(__file__).parent / "sample"
FIGURES = st.floats(min_value=-1e12, max_value=1e12, allow_subnormal=False)


@pytest.fixture(scope="module")
def ledger() -> Ledger:
    """Read a ledger with all seven verdicts; of its records one is missing and one truncated."""
    return read_ledger(SAMPLE / "ledger.json")


@pytest.fixture(scope="module")
def page(ledger: Ledger) -> str:
    """Render the page of that ledger."""
    return render_page(ledger, read_records(ledger, SAMPLE))


def measured_entry(value: float, low: float, high: float, allowed: Allowed | None) -> Entry:
    """Write a claim's line with this figure, the rest being beside the point."""
    return Entry(
        id="X-1",
        version=1,
        headline="h",
        sentence="s",
        kind="measured",
        scale="fixture",
        source="here",
        expect="open",
        verdict=Verdict.HOLDS,
        measured=Figure(value=value, low=low, high=high, unit="s"),
        allowed=allowed,
        reason="",
        faults_caught=1,
        faults_total=1,
        record=None,
        duration_s=0.0,
    )


class Outline(HTMLParser):
    """The attributes of every element, by tag, and the text outside style and script."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self._tag = "", ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._tag = tag
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self._tag not in ("style", "script"):
            self.text += data


class TestContent:
    def test_every_claim_is_there_once_with_its_words(self, ledger: Ledger, page: str) -> None:
        outline = Outline(page)
        cards = [attributes["id"] for tag, attributes in outline.elements if tag == "article"]
        assert cards == [entry.id for group in ledger.by_headline().values() for entry in group]
        for entry in ledger.claims:
            assert entry.sentence in outline.text
            assert entry.reason in outline.text
            assert entry.headline in outline.text

    def test_tiles_count_as_the_ledger_counts(self, ledger: Ledger, page: str) -> None:
        tiles = re.findall(r'class="tile[^>]*data-verdict="([^"]+)".*?class="count">(\d+)<', page, re.DOTALL)
        assert {verdict: int(count) for verdict, count in tiles} == ledger.counts()

    def test_the_sample_shows_every_verdict(self, ledger: Ledger) -> None:
        assert set(ledger.counts()) == {verdict.value for verdict in Verdict}

    def test_glyphs_tell_verdicts_apart_without_colour(self) -> None:
        assert set(GLYPHS) == set(Verdict)
        assert len(set(GLYPHS.values())) == len(Verdict)

    def test_contradicted_claims_are_marked_and_no_others(self, ledger: Ledger, page: str) -> None:
        marked = {
            attributes["id"]
            for tag, attributes in Outline(page).elements
            if tag == "article" and attributes["data-contradicted"] == "yes"
        }
        assert marked == {entry.id for entry in ledger.claims if entry.is_contradicted} == {"CAP-1", "RELORA-6"}
        assert page.count("⚑ contradicted: ") == len(marked)

    def test_the_legend_explains_every_word(self, page: str) -> None:
        terms = {term.strip() for term in re.findall(r"<dt>([a-z ]+)</dt>", page[page.index('id="legend"') :])}
        assert terms >= {*Kind.__args__, *SCALES}

    def test_an_empty_ledger_still_makes_a_page(self, ledger: Ledger) -> None:
        assert "None of the 0" in render_page(ledger.model_copy(update={"claims": ()}), {})


class TestEscaping:
    @pytest.mark.parametrize("field", ["id", "headline", "sentence", "reason", "source", "record"])
    def test_markup_in_a_claim_is_shown_as_text(self, field: str) -> None:
        attack = "\"><script>alert('x')</script><img src=x onerror=alert(1)>"
        entry = measured_entry(1, 1, 1, at_least(0)).model_copy(update={field: attack})
        machine = read_ledger(SAMPLE / "ledger.json").machine
        page = render_page(Ledger(machine=machine, claims=(entry,)), {})
        outline = Outline(page)
        assert sum(tag == "script" for tag, _ in outline.elements) == 1
        assert not any(tag == "img" for tag, _ in outline.elements)
        assert attack in outline.text

    def test_markup_in_a_record_is_shown_as_text(self, ledger: Ledger) -> None:
        records = read_records(ledger, SAMPLE)
        records = {
            path: {**record, "os": "<b>os</b>"} for path, record in records.items() if not isinstance(record, str)
        }
        page = render_page(ledger, records)
        assert "<b>os</b>" not in page
        assert "&lt;b&gt;os&lt;/b&gt;" in page


class TestSelfContained:
    def test_nothing_is_loaded_from_anywhere(self, page: str) -> None:
        for _, attributes in Outline(page).elements:
            for name in ("src", "href", "action", "data", "poster", "srcset", "xlink:href"):
                target = attributes.get(name)
                assert target is None or target.startswith("#") or target == "data:,"
        assert not re.search(r"@import|url\(|\bimport\(|\bfetch\(|XMLHttpRequest|WebSocket", page)
        assert "http://" not in page
        assert "https://" not in page

    def test_the_browser_is_told_to_load_nothing(self, page: str) -> None:
        assert "default-src 'none'" in page

    def test_equal_input_gives_equal_output(self, ledger: Ledger, page: str) -> None:
        assert render_page(ledger, read_records(ledger, SAMPLE)) == page

    def test_no_template_is_left_over(self, page: str) -> None:
        assert not re.search(r"\{\{|\{%|%\}|Undefined", page)


class TestRecords:
    def test_provenance_is_shown(self, page: str) -> None:
        evidence = page[page.index('id="RANK1-9"') :]
        for text in ("1a2b3c4d5e6f", "clean", "2026-03-09T09:14:07Z", "torch 2.13.0+cpu", "google/gemma-3-270m"):
            assert text in evidence
        assert "dequantised Q4_K_M" in evidence
        assert "30 samples" in evidence

    def test_a_missing_and_a_truncated_record_are_shown_as_such(self, ledger: Ledger, page: str) -> None:
        problems = {path: text for path, text in read_records(ledger, SAMPLE).items() if isinstance(text, str)}
        assert len(problems) == page.count("unreadable record</span>") == 2
        assert any("cannot be read: No such file" in text for text in problems.values())
        assert any("is not JSON" in text for text in problems.values())
        assert str(SAMPLE) not in page

    @pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema_version": 1}', "\x00", '{"schema_version": NaN}'])
    def test_no_damage_stops_the_page(self, ledger: Ledger, tmp_path: Path, content: str) -> None:
        names = {entry.record for entry in ledger.claims if entry.record}
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(content)
        written = write_page(ledger, tmp_path, tmp_path / "out" / "page.html")
        assert written.read_text(encoding="utf-8").count("unreadable record</span>") == len(names)

    def test_a_record_not_handed_over_is_named(self, ledger: Ledger) -> None:
        assert "was not read" in render_page(ledger, {})

    def test_fields_of_an_experiment_do_no_harm(self, ledger: Ledger, tmp_path: Path) -> None:
        name = next(entry.record for entry in ledger.claims if entry.id == "RANK1-9")
        record = json.loads((SAMPLE / name).read_text(encoding="utf-8")) | {"capacity_bits": 12.0}
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(json.dumps(record))
        assert not isinstance(read_records(ledger, tmp_path)[name], str)


class TestPlot:
    @given(FIGURES, FIGURES, FIGURES, FIGURES, st.sampled_from(["exactly", "at_least", "at_most", "between", "none"]))
    def test_order_of_figures_is_order_of_pixels(self, a: float, b: float, c: float, limit: float, kind: str) -> None:
        low, value, high = sorted((a, b, c))
        makers = {"exactly": exactly, "at_least": at_least, "at_most": at_most}
        allowed = between(limit, limit + 1) if kind == "between" else makers[kind](limit) if kind in makers else None
        plot = plot_of(measured_entry(value, low, high, allowed))
        assert 0 <= plot.low_x <= plot.point_x <= plot.high_x <= PLOT_WIDTH
        assert (plot.band is None) == (allowed is None)
        if plot.band:
            assert 0 <= plot.band[0] < plot.band[1] <= PLOT_WIDTH

    def test_at_least_is_shaded_to_the_right_end(self) -> None:
        plot = plot_of(measured_entry(72, 71, 73, at_least(75)))
        assert plot.band[1] == PLOT_WIDTH
        assert plot.high_x < plot.band[0] == plot.edges[0]

    def test_at_most_is_shaded_to_the_left_end(self) -> None:
        plot = plot_of(measured_entry(8, 7, 9, at_most(5)))
        assert plot.band[0] == 0
        assert plot.edges[0] == plot.band[1] < plot.low_x

    def test_a_range_has_two_edges_and_holds_a_point_inside(self) -> None:
        plot = plot_of(measured_entry(7, 6.9, 7.1, between(6.46, 7.14)))
        assert plot.edges == plot.band
        assert 0 < plot.band[0] < plot.low_x < plot.high_x < plot.band[1] < PLOT_WIDTH

    def test_an_exact_figure_on_its_only_allowed_place(self) -> None:
        plot = plot_of(measured_entry(512, 512, 512, exactly(512)))
        assert plot.low_x == plot.point_x == plot.high_x == plot.edges[0] == PLOT_WIDTH / 2
        assert plot.band[0] < plot.point_x < plot.band[1]

    def test_a_straddling_interval_crosses_the_edge(self) -> None:
        plot = plot_of(measured_entry(1.7, 0.9, 2.6, at_most(2)))
        assert plot.low_x < plot.edges[0] < plot.high_x

    def test_four_decades_are_logarithmic_and_evenly_spaced(self) -> None:
        axis = Axis.over([1e-8, 1e-4])
        assert axis.is_log
        steps = [axis.x(10 * figure) - axis.x(figure) for figure in (1e-8, 1e-7, 1e-6, 1e-5)]
        assert steps == pytest.approx([steps[0]] * 4, abs=0.02)

    @pytest.mark.parametrize("figures", [[1, 900], [0, 1e6], [-1, 1e6]])
    def test_less_than_that_or_not_positive_is_linear(self, figures: list[float]) -> None:
        assert not Axis.over(figures).is_log

    @given(FIGURES, FIGURES)
    def test_labels_say_where_they_stand_and_do_not_touch(self, one: float, other: float) -> None:
        assume(abs(one) > 1e-12 or abs(other) > 1e-12)
        axis = Axis.over([one, other])
        ticks = axis.ticks()
        assert ticks
        assert len(ticks) > 1 or not axis.is_log
        for tick in ticks:
            assert axis.x(float(tick.label.replace(",", ""))) == pytest.approx(tick.x, abs=2)
            assert tick.label_x - tick.reach >= -0.01
            assert tick.label_x + tick.reach <= PLOT_WIDTH + 0.01
        assert all(left.is_clear_of(right) for left, right in pairwise(ticks))

    def test_samples_keep_their_order_from_top_to_bottom(self) -> None:
        dots = re.findall(r"M([\d.]+) ([\d.]+)h0", Strip.of([3.0, 1.0, 2.0]).path)
        xs, ys = [float(x) for x, _ in dots], [float(y) for _, y in dots]
        assert xs[1] < xs[2] < xs[0]
        assert ys == sorted(ys)

    def test_the_plot_is_told_in_words(self, page: str) -> None:
        assert "<title>measured 1.7 [0.9, 2.6] %; allowed ≤ 2</title>" in page
