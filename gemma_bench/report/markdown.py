"""The ledger in Markdown: LEDGER.md whole, and README's table between its two marks."""

from pathlib import Path

from tabulate import tabulate

from gemma_bench.claims.ledger import Entry, Ledger, read_ledger
from gemma_bench.claims.table import catches_text, measured_text, summary
from gemma_bench.core.errors import DamagedFileError
from gemma_bench.core.files import read_text, write_text

BEGIN, END = "<!-- ledger: rendered by `gemma-bench ledger --write` -->", "<!-- end of ledger -->"


def ledger_markdown(ledger: Ledger) -> str:
    """Write the whole ledger: a table a headline, each claim with its reason and source."""
    parts = ["# Ledger", f"{summary(ledger)}.", f"Machine: {_machine(ledger)}."]
    for headline, entries in ledger.by_headline().items():
        parts += [f"## {_escaped(headline)}", _table(entries, with_reason=True)]
    return "\n\n".join(parts) + "\n"


def readme_table(ledger: Ledger) -> str:
    """Write the short table: what is claimed and what was found."""
    return "\n\n".join([_table(list(ledger.claims), with_reason=False), f"{summary(ledger)}."])


def write_documents(root: Path) -> tuple[Path, Path]:
    """Render `results/ledger.json` into LEDGER.md and README.md, and say where."""
    ledger = read_ledger(root / "results" / "ledger.json")
    whole, readme = root / "results" / "LEDGER.md", root / "README.md"
    write_text(whole, ledger_markdown(ledger))
    write_text(readme, with_table(read_text(readme, "README"), readme_table(ledger)))
    return whole, readme


def with_table(document: str, table: str) -> str:
    """Put a table between the two marks of a document, in place of what stands there."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise DamagedFileError(f"the document has no place for the ledger: it needs the lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{after}"


def _table(entries: list[Entry], *, with_reason: bool) -> str:
    rows = [
        {
            "claim": entry.id,
            "sentence": _escaped(
                f"{entry.sentence} — {entry.reason}" if with_reason and entry.reason else entry.sentence
            ),
            "verdict": f"**{entry.verdict.value}**",
            "measured": _escaped(measured_text(entry)),
            "allowed": _escaped(str(entry.allowed or "–")),
            "catches": catches_text(entry),
        }
        for entry in entries
    ]
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)


def _machine(ledger: Ledger) -> str:
    machine = ledger.machine
    return f"{machine.chip}, {machine.cores_count} cores, {machine.memory_bytes / 2**30:.1f} GiB, {machine.os}"


def _escaped(text: str) -> str:
    """Keep text from becoming Markdown or HTML."""
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("*", "\\*"), ("_", "\\_")):
        text = text.replace(character, entity)
    return " ".join(text.split())
