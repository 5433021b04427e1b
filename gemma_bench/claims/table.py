"""The ledger as a table in the terminal: by headline, readable without colour."""

from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from gemma_bench.claims.ledger import Entry, Ledger
from gemma_bench.claims.verdict import Measured, Verdict

STYLES = {
    "holds": "green",
    "refuted": "magenta",
    "inconclusive": "yellow",
    "invalid": "yellow",
    "not run": "dim",
    "stale": "yellow",
    "broken": "bold red",
}


def ledger_table(ledger: Ledger) -> Group:
    """Draw one table a headline, with the reason of what does not hold, and a closing line that counts the verdicts."""
    parts: list[Table | Text] = []
    for headline, entries in ledger.by_headline().items():
        table = Table(title=escape(headline), title_justify="left", title_style="bold", expand=True, padding=(0, 1))
        for column, widest in (("claim", 10), ("verdict", 14), ("measured", 26), ("allowed", 15), ("catches", 7)):
            table.add_column(column, max_width=widest)
        table.add_column("sentence", ratio=1)
        for entry in entries:
            table.add_row(*_row(entry))
        parts.append(table)
    parts.append(Text(summary(ledger)))
    return Group(*parts)


def _row(entry: Entry) -> tuple[Text | str, ...]:
    mark = " ✗" if entry.is_contradicted else ""
    why = f"\n→ {entry.reason}" if entry.reason and entry.verdict is not Verdict.HOLDS else ""
    return (
        entry.id,
        Text(entry.verdict.value + mark, style=STYLES[entry.verdict.value]),
        Text(measured_text(entry)),
        Text(str(entry.allowed or "–")),
        catches_text(entry),
        Text(entry.sentence).append(why, style="dim"),
    )


def measured_text(entry: Entry) -> str:
    """Write what was measured, with interval and unit, or a dash."""
    return str(Measured(**entry.measured.model_dump())) if entry.measured else "–"


def catches_text(entry: Entry) -> str:
    """Write `2/2`: faults caught out of those planted; `?` where the code changed since they were planted."""
    return f"{'?' if entry.faults_caught is None else entry.faults_caught}/{entry.faults_total}"


def summary(ledger: Ledger) -> str:
    """Count the verdicts: `27 claims on linux-epyc-2c-24gb-1f3a: 17 holds, 10 refuted`."""
    counts = ", ".join(f"{count} {verdict}" for verdict, count in ledger.counts().items())
    return f"{len(ledger.claims)} claims on {ledger.machine.id}: {counts or 'none'}"
