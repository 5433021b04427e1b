"""Results in Markdown: LEDGER.md whole, and README's tables of claims and of speed, each between its two marks."""

from pathlib import Path

from tabulate import tabulate

from gemma_bench.claims.ledger import Entry, Ledger, read_ledger
from gemma_bench.claims.table import catches_text, measured_text, summary
from gemma_bench.core.errors import DamagedFileError
from gemma_bench.core.files import read_text, write_text
from gemma_bench.core.units import number
from gemma_bench.experiments.speed_table import TableRecord
from gemma_bench.report.speed_tables import SpeedTables, read_speed_tables, weights_text

LEDGER = "<!-- ledger: rendered by `gemma-bench ledger --write` -->", "<!-- end of ledger -->"
SPEED = "<!-- speed: rendered by `gemma-bench ledger --write` -->", "<!-- end of speed -->"


def ledger_markdown(ledger: Ledger) -> str:
    """Write the whole ledger: a table a headline, each claim with its reason and source."""
    parts = ["# Ledger", f"{summary(ledger)}.", f"Machine: {_machine(ledger)}."]
    for headline, entries in ledger.by_headline().items():
        parts += [f"## {_escaped(headline)}", _table(entries, with_reason=True)]
    return "\n\n".join(parts) + "\n"


def readme_table(ledger: Ledger) -> str:
    """Write the short table: what is claimed and what was found."""
    return "\n\n".join([_table(list(ledger.claims), with_reason=False), f"{summary(ledger)}."])


def speed_markdown(speed: SpeedTables) -> str:
    """Write the newest speed table, each rate beside its perplexity, or how to get one."""
    if not speed.tables:
        return "No record of this version yet: `gemma-bench run speed_table --scale study` makes one."
    table = speed.tables[0]
    rows = tabulate(
        [_speed_row(row) for _, row in table.rows], headers="keys", tablefmt="github", disable_numparse=True
    )
    first = table.first
    told = (
        f"Measured in turn on {first.chip} (`{first.machine_id}`) on {first.date_utc[:10]}, {first.cores_count} cores"
    )
    text = f"; perplexity of {table.text}" if table.text else ""
    moved = [row.smallest_effect_percent for _, row in table.rows[1:] if row.smallest_effect_percent is not None]
    noise = f"; from round to round a ratio moved by {min(moved):.0f} to {max(moved):.0f} %" if moved else ""
    return f"{rows}\n\n{told}, batch 1, with 95 % intervals{text}{noise}."


def _speed_row(row: TableRecord) -> dict[str, str]:
    rate, low, high = (number(getattr(row, f"decode{end}_tokens_per_s")) for end in ("", "_low", "_high"))
    is_evidence = row.output_is_correct and not row.broken_rules
    why_not = "; ".join(row.broken_rules) or "wrong output"
    return {
        "model, library, device, precision": _escaped(row.row),
        "weights": _escaped(weights_text(row)),
        "decode, tok/s": f"**{rate}** [{low}, {high}]",
        "perplexity": "–" if row.perplexity is None else f"{row.perplexity:.2f}",
        "of the ceiling": f"{row.bandwidth_share_percent:.0f} %",
        "over the first": f"{number(row.over_first_row_ratio)} ×"
        if is_evidence
        else f"not compared: {_escaped(why_not)}",
    }


def write_documents(root: Path) -> tuple[Path, Path]:
    """Render `results/ledger.json` into LEDGER.md and README.md, and the newest speed records too; say where."""
    ledger = read_ledger(root / "results" / "ledger.json")
    whole, readme = root / "results" / "LEDGER.md", root / "README.md"
    write_text(whole, ledger_markdown(ledger))
    text = with_table(read_text(readme, "README"), LEDGER, readme_table(ledger))
    write_text(readme, with_table(text, SPEED, speed_markdown(read_speed_tables(root))))
    return whole, readme


def with_table(document: str, marks: tuple[str, str], table: str) -> str:
    """Put a table between two marks of a document, in place of what stands there."""
    first, last = marks
    before, begin, rest = document.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise DamagedFileError(f"the document has no place for a table: it needs the lines {first} and {last}")
    return f"{before}{first}\n\n{table}\n\n{last}{after}"


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
