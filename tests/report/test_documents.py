"""Documents in Markdown: rendered from the committed ledger, and from nothing else."""

from pathlib import Path

import pytest

from gemma_bench.claims.ledger import read_ledger
from gemma_bench.core.errors import DamagedFileError
from gemma_bench.core.records import read_record
from gemma_bench.report.markdown import LEDGER, SPEED, ledger_markdown, readme_table, speed_markdown, with_table
from gemma_bench.report.page import BareRecord
from gemma_bench.report.speed_tables import read_speed_tables

ROOT = Path(__file__).parents[2]


@pytest.fixture
def ledger():
    return read_ledger(ROOT / "results" / "ledger.json")


def test_readme_and_ledger_md_are_those_of_the_committed_ledger(ledger):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert with_table(readme, LEDGER, readme_table(ledger)) == readme
    assert (ROOT / "results" / "LEDGER.md").read_text(encoding="utf-8") == ledger_markdown(ledger)


def test_the_speed_table_of_readme_is_that_of_the_newest_record():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert with_table(readme, SPEED, speed_markdown(read_speed_tables(ROOT))) == readme


def test_the_committed_ledger_is_of_the_specs_as_they_are(ledger):
    from gemma_bench.claims.contents import read_specs

    specs, mistakes = read_specs([ROOT / "specs"])
    assert not mistakes
    recorded = {line.id: (line.version, line.sentence, line.expect) for line in ledger.claims}
    assert recorded == {spec.claim.id: (spec.claim.version, spec.claim.sentence, spec.claim.expect) for spec in specs}
    assert not any(line.is_contradicted for line in ledger.claims)
    assert all(line.faults_caught == line.faults_total for line in ledger.claims if line.faults_caught is not None)


def test_the_records_that_it_names_were_made_by_a_clean_commit(ledger):
    records = [read_record(ROOT / line.record, BareRecord) for line in ledger.claims if line.record]
    assert records
    assert all(record.commit_is_clean for record in records)
    measured = [read_record(ROOT / line.record, BareRecord) for line in ledger.claims if line.kind == "measured"]
    assert all(record.machine_id == ledger.machine.id for record in measured)


def test_text_of_a_claim_cannot_become_markup(ledger):
    line = ledger.claims[0].model_copy(update={"sentence": "a | b <script> *c* _d_"})
    text = ledger_markdown(ledger.model_copy(update={"claims": (line,)}))
    assert "a \\| b &lt;script&gt; \\*c\\* \\_d\\_" in text


def test_a_document_without_a_place_for_the_table_is_refused():
    begin, end = LEDGER
    assert with_table(f"a{begin}old{end}b", LEDGER, "new") == f"a{begin}\n\nnew\n\n{end}b"
    with pytest.raises(DamagedFileError, match="has no place for a table: it needs the lines <!-- speed"):
        with_table(f"a{begin}old{end}b", SPEED, "new")
