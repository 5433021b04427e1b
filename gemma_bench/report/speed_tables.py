"""The newest speed table of every machine among the records, as the page draws it."""

import json
from dataclasses import dataclass
from pathlib import Path

from gemma_bench.core.errors import DamagedFileError
from gemma_bench.core.records import BareRecord, read_record
from gemma_bench.core.units import number
from gemma_bench.experiments.speed_table import VERSION, Row, TableRecord


@dataclass(frozen=True)
class SpeedTable:
    """Rows that were measured in turn, in the order of their configuration, each with its record's path."""

    machine_id: str
    rows: tuple[tuple[str, TableRecord], ...]

    @property
    def first(self) -> TableRecord:
        """The row that the others are compared with."""
        return self.rows[0][1]

    @property
    def text(self) -> str | None:
        """Say what the perplexities are of, or `None` where no row has one."""
        count = max(row.text_count_tokens for _, row in self.rows)
        return f"the first {number(count)} tokens of {self.first.text}" if count else None


@dataclass(frozen=True)
class SpeedTables:
    """A table per machine, the newest first, and what is wrong with records that cannot be read."""

    tables: tuple[SpeedTable, ...] = ()
    problems: tuple[str, ...] = ()


def weights_text(record: TableRecord) -> str:
    """Say what a row's weights are: how our own scheme rounded them, else their precision."""
    _, told, scheme = (record.weights_origin or "").rpartition("; ")
    return scheme if told else str(record.dtype)


def read_speed_tables(root: Path) -> SpeedTables:
    """Read the whole, clean records of the experiment's present version under a project's root; others are left out."""
    records: dict[str, TableRecord] = {}
    problems = []
    for path in sorted((root / "results" / "records" / "speed_table").glob("*.json"), reverse=True):
        name = path.relative_to(root).as_posix()
        try:
            bare = read_record(path, BareRecord)
            if not bare.commit_is_clean or bare.experiment_version != VERSION:
                continue
            if (record := read_record(path, TableRecord)).is_complete:
                records[name] = record
        except DamagedFileError as error:
            problems.append(str(error).replace(str(path), name))
    machines = dict.fromkeys(record.machine_id for record in records.values())
    return SpeedTables(tuple(_newest(machine, records) for machine in machines), tuple(problems))


def _newest(machine_id: str, records: dict[str, TableRecord]) -> SpeedTable:
    """Take the configuration of a machine's newest record, and the newest record of each of its rows."""
    here = {name: record for name, record in records.items() if record.machine_id == machine_id}
    config = _config(next(iter(here.values())))
    by_row: dict[str, tuple[str, TableRecord]] = {}
    for name, record in here.items():
        if _config(record) == config:
            by_row.setdefault(record.row, (name, record))
    order = [Row(**row).name for row in config["rows"]]
    return SpeedTable(machine_id, tuple(by_row[row] for row in order if row in by_row))


def _config(record: TableRecord) -> dict[str, list[dict[str, str | None]]]:
    config: dict[str, list[dict[str, str | None]]] = json.loads(record.config_json)
    config.pop("row", None)
    return config
