"""The page in a real browser: filters, search, keyboard, colours, narrow screens, no network.

Needs Debian's `chromium` and the Python package `playwright` (its own browsers are not used); skipped without them.
"""

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gemma_bench.claims.ledger import Entry, Ledger, read_ledger
from gemma_bench.report.page import write_page

playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on the path")

SAMPLE = Path(__file__).parents[1] / "report" / "sample"
AA_CONTRAST = 4.5
CONTRASTS = (Path(__file__).parent / "contrast.js").read_text(encoding="utf-8")

Open = Callable[..., "playwright.Page"]


@pytest.fixture(scope="module")
def ledger() -> Ledger:
    """Read a ledger with all seven verdicts."""
    return read_ledger(SAMPLE / "ledger.json")


@pytest.fixture(scope="module")
def address(ledger: Ledger, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write the page of that ledger and return its address."""
    return write_page(ledger, SAMPLE, tmp_path_factory.mktemp("page") / "page.html").as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator["playwright.Browser"]:
    """Start one chromium for all tests of this file."""
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: "playwright.Browser", address: str) -> Iterator[Open]:
    """Open the page in a fresh profile; at the end, nothing may have been logged, raised or requested."""
    complaints: list[str] = []
    contexts = []

    def visit(fragment: str = "", width: int = 1280, **options: object) -> "playwright.Page":
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, **options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: complaints.append(request.url) if not is_local(request.url) else None)
        page.goto(address + fragment)
        return page

    def is_local(url: str) -> bool:
        return url.partition("#")[0] == address or url == "data:,"

    yield visit
    for context in contexts:
        context.close()
    assert complaints == []


def shown(page: "playwright.Page") -> set[str]:
    """Return the ids of the claims that can be seen, once the count agrees with them."""
    ids = set(page.eval_on_selector_all(".claim:not([hidden])", "claims => claims.map(claim => claim.id)"))
    total = page.locator(".claim").count()
    assert page.locator("#shown").text_content() == f"{len(ids)} of {total} claims shown"
    assert page.locator(".claim:visible").count() == len(ids)
    return ids


def ids_of(ledger: Ledger, is_wanted: Callable[[Entry], bool]) -> set[str]:
    """Return the ids of the claims that the ledger says should be seen."""
    return {entry.id for entry in ledger.claims if is_wanted(entry)}


class TestFilters:
    def test_all_claims_are_shown_at_first(self, visit: Open, ledger: Ledger) -> None:
        assert shown(visit()) == ids_of(ledger, lambda _: True)

    def test_each_tile_shows_as_many_as_it_says(self, visit: Open, ledger: Ledger) -> None:
        page = visit()
        for verdict, count in ledger.counts().items():
            tile = page.locator(f'.tile[data-verdict="{verdict}"]')
            assert tile.locator(".count").text_content() == str(count)
            tile.click()
            assert shown(page) == ids_of(ledger, lambda entry, verdict=verdict: entry.verdict == verdict)
            assert tile.get_attribute("aria-pressed") == "true"
            tile.click()

    def test_two_tiles_add_up(self, visit: Open, ledger: Ledger) -> None:
        page = visit()
        page.click('.tile[data-verdict="refuted"]')
        page.click('.tile[data-verdict="broken"]')
        assert shown(page) == ids_of(ledger, lambda entry: entry.verdict in ("refuted", "broken"))

    def test_kind(self, visit: Open, ledger: Ledger) -> None:
        page = visit()
        for kind in {entry.kind for entry in ledger.claims}:
            page.select_option("#kind", kind)
            assert shown(page) == ids_of(ledger, lambda entry, kind=kind: entry.kind == kind)

    def test_headline_hides_the_other_headings(self, visit: Open, ledger: Ledger) -> None:
        page = visit()
        for headline, entries in ledger.by_headline().items():
            page.select_option("#headline", headline)
            assert shown(page) == {entry.id for entry in entries}
            assert page.locator(".headline:visible h2").all_text_contents() == [headline]

    def test_only_contradicted(self, visit: Open, ledger: Ledger) -> None:
        page = visit()
        page.check("#contradicted")
        assert shown(page) == ids_of(ledger, lambda entry: entry.is_contradicted)

    def test_filters_narrow_together_and_clear_at_once(self, visit: Open, ledger: Ledger) -> None:
        page = visit()
        page.click('.tile[data-verdict="refuted"]')
        page.select_option("#kind", "recorded")
        page.fill("#search", "capacity")
        assert shown(page) == {"CAP-14"}
        page.click("#all")
        assert shown(page) == ids_of(ledger, lambda _: True)
        assert not page.locator("#all").is_visible()


class TestSearch:
    @pytest.mark.parametrize(
        ("words", "found"),
        [("arch-7", {"ARCH-7"}), ("STRADDLES threshold", {"SPEED-8", "RELORA-7"}), ("80,352", {"CAP-4"})],
    )
    def test_id_reason_and_sentence_are_searched(self, visit: Open, words: str, found: set[str]) -> None:
        page = visit()
        page.fill("#search", words)
        assert shown(page) == found

    def test_no_match_says_so(self, visit: Open) -> None:
        page = visit()
        page.fill("#search", "no such words")
        assert shown(page) == set()
        assert page.locator("#empty").is_visible()

    def test_enter_stays_on_the_page(self, visit: Open) -> None:
        page = visit()
        page.fill("#search", "merge")
        before = shown(page)
        page.press("#search", "Enter")
        assert shown(page) == before


class TestLinks:
    def test_the_hash_brings_a_claim_into_view_with_its_evidence(self, visit: Open) -> None:
        page = visit("#RANK1-9")
        assert 0 <= page.locator("#RANK1-9").bounding_box()["y"] < 450
        assert page.locator("#RANK1-9 table").is_visible()

    def test_a_link_to_a_filtered_claim_clears_the_filters(self, visit: Open) -> None:
        page = visit()
        page.click('.tile[data-verdict="broken"]')
        page.evaluate("location.hash = '#ARCH-3'")
        page.wait_for_selector("#ARCH-3", state="visible")
        assert "ARCH-3" in shown(page)

    @pytest.mark.parametrize("fragment", ["#no-such-claim", "#legend", "#%E0%A4%A"])
    def test_other_hashes_do_no_harm(self, visit: Open, ledger: Ledger, fragment: str) -> None:
        assert len(shown(visit(fragment))) == len(ledger.claims)


class TestKeyboard:
    def test_evidence_opens_and_closes(self, visit: Open) -> None:
        page = visit()
        details = page.locator("#CAP-1 details")
        page.focus("#CAP-1 summary")
        page.keyboard.press("Enter")
        assert details.locator("table").is_visible()
        page.keyboard.press("Space")
        assert not details.locator("table").is_visible()

    def test_a_tile_is_pressed(self, visit: Open, ledger: Ledger) -> None:
        page = visit()
        page.focus('.tile[data-verdict="stale"]')
        page.keyboard.press("Space")
        assert shown(page) == ids_of(ledger, lambda entry: entry.verdict == "stale")

    def test_the_first_stop_skips_to_the_claims(self, visit: Open) -> None:
        page = visit()
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.getAttribute('href')") == "#ledger"


class TestLooks:
    def test_dark_differs_from_light_and_the_toggle_is_remembered(self, visit: Open) -> None:
        ground = "getComputedStyle(document.body).backgroundColor"
        light, dark = visit(color_scheme="light"), visit(color_scheme="dark")
        assert _brightness(light.evaluate(ground)) > 200
        assert _brightness(dark.evaluate(ground)) < 60
        light.click("#theme")
        assert light.evaluate(ground) == dark.evaluate(ground)
        light.reload()
        assert light.evaluate(ground) == dark.evaluate(ground)

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_every_text_stands_out_from_its_ground(self, visit: Open, scheme: str) -> None:
        page = visit(color_scheme=scheme)
        page.eval_on_selector_all("details", "all => all.forEach(one => one.open = true)")
        contrasts = page.evaluate(CONTRASTS)
        assert len(contrasts) > 300
        assert [found for found in contrasts if found["contrast"] < AA_CONTRAST] == []

    def test_verdicts_have_shapes_of_their_own(self, visit: Open, ledger: Ledger) -> None:
        shapes = visit().eval_on_selector_all(
            ".tile .mark",
            "marks => marks.map(mark => { const style = getComputedStyle(mark);"
            " return [style.clipPath, style.borderRadius, style.borderStyle].join() })",
        )
        assert len(set(shapes)) == len(ledger.counts())

    @pytest.mark.parametrize("width", [320, 390, 800, 1280, 2000])
    def test_nothing_is_wider_than_the_screen(self, visit: Open, width: int) -> None:
        page = visit(width=width)
        page.eval_on_selector_all("details", "all => all.forEach(one => one.open = true)")
        assert page.evaluate("document.documentElement.scrollWidth") <= width

    def test_whatever_claim_comes_first_has_a_frame(self, visit: Open) -> None:
        page = visit()
        page.click('.tile[data-verdict="broken"]')
        frame = page.locator(".cards:visible").bounding_box()
        first = page.locator(".claim:visible").bounding_box()
        assert first["y"] == pytest.approx(frame["y"], abs=1)

    def test_points_are_drawn_inside_their_plots(self, visit: Open) -> None:
        page = visit()
        for plot in page.locator(".figure .plot").all():
            frame, point = plot.bounding_box(), plot.locator(".point").bounding_box()
            assert frame["x"] <= point["x"]
            assert point["x"] + point["width"] <= frame["x"] + frame["width"]

    def test_print_leaves_the_controls_out(self, visit: Open) -> None:
        page = visit(color_scheme="dark")
        page.emulate_media(media="print")
        assert not page.locator("#filters").is_visible()
        assert page.locator("#CAP-1 .sentence").is_visible()


class TestSpeed:
    def test_the_link_at_the_top_leads_to_the_table(self, visit: Open) -> None:
        page = visit()
        page.click('.jumps a[href="#speed"]')
        assert page.locator("#speed-title").bounding_box()["y"] < 200

    @pytest.mark.parametrize("width", [360, 1280])
    def test_bars_are_as_long_as_their_shares(self, visit: Open, width: int) -> None:
        shares = visit(width=width).locator(".share").all()
        assert len(shares) == 5
        for share in shares:
            frame, bar = (share.locator(part).bounding_box()["width"] for part in (".band", ".bar"))
            stated = float(re.match(r"[\d.]+", share.locator("title").text_content())[0])
            assert 100 * bar / frame == pytest.approx(stated, abs=0.5)

    def test_a_row_reads_the_same_on_a_phone(self, visit: Open) -> None:
        wide, narrow = visit(), visit(width=360)
        assert (
            wide.locator(".speed-table > table").text_content() == narrow.locator(".speed-table > table").text_content()
        )
        assert wide.locator(".speed-table thead th").first.bounding_box()["x"] > 0
        heads = narrow.locator(".speed-table td[data-head]").first
        assert heads.evaluate("cell => getComputedStyle(cell, '::before').content") == '"decode"'

    def test_a_row_opens_its_record(self, visit: Open) -> None:
        page = visit()
        page.locator("#speed summary").first.click()
        assert page.locator("#speed .evidence table").first.is_visible()

    def test_filters_leave_the_table_alone_and_do_not_cover_it(self, visit: Open) -> None:
        page = visit()
        page.fill("#search", "no such words")
        assert page.locator("#speed").is_visible()
        page.fill("#search", "")
        page.evaluate("document.querySelector('.speed-table > table > tbody > tr:last-child').scrollIntoView()")
        assert page.locator("#filters").bounding_box()["y"] < 0


class TestPictures:
    def test_every_chart_is_seen_with_its_labels_inside(self, visit: Open) -> None:
        page = visit()
        assert page.locator("figure.picture").count() == 5
        for chart in page.locator(".chart").all():
            frame = chart.bounding_box()
            assert frame["width"] > 250
            for label in chart.locator("text").all():
                box = label.bounding_box()
                assert frame["x"] - 2 <= box["x"]
                assert box["x"] + box["width"] <= frame["x"] + frame["width"] + 2

    @pytest.mark.parametrize("width", [390, 1280])
    def test_labels_can_be_read_on_any_screen(self, visit: Open, width: int) -> None:
        heights = visit(width=width).eval_on_selector_all(
            ".chart text", "all => all.map(one => one.getBoundingClientRect().height)"
        )
        assert min(heights) >= 9

    def test_series_are_coloured_apart_in_light_and_dark(self, visit: Open) -> None:
        for scheme in ("light", "dark"):
            keys = visit(color_scheme=scheme).eval_on_selector_all(
                "#picture-low_rank_training .charts > :first-child .key",
                "all => all.map(one => getComputedStyle(one).stroke)",
            )
            assert len(set(keys)) == 3

    def test_a_picture_leaves_with_its_headline(self, visit: Open) -> None:
        page = visit()
        picture = page.locator("#picture-capacity_scaling")
        assert picture.is_visible()
        page.fill("#search", "no such words")
        assert not picture.is_visible()

    def test_records_are_named_on_demand(self, visit: Open) -> None:
        page = visit()
        page.locator("#picture-step_cost summary").click()
        assert page.locator("#picture-step_cost li:visible").count() == 4


class TestWithoutScripts:
    def test_everything_is_readable_and_filters_are_absent(self, visit: Open, ledger: Ledger) -> None:
        page = visit(java_script_enabled=False)
        assert page.locator(".claim:visible").count() == len(ledger.claims)
        assert not page.locator("#filters").is_visible()
        assert not page.locator("#theme").is_visible()
        assert page.locator(".tile").first.is_disabled()
        page.click("#CAP-1 summary")
        assert page.locator("#CAP-1 table").is_visible()


def _brightness(colour: str) -> float:
    red, green, blue = (float(part) for part in re.findall(r"[\d.]+", colour)[:3])
    return (red + green + blue) / 3
