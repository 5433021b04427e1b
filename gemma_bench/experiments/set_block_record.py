"""What every record of set block decoding tells: losses of the models, and how each way to decode came off."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict

from gemma_bench.core.intervals import Interval
from gemma_bench.core.records import Record, clean_records, read_record


@dataclass(frozen=True)
class Way:
    """A model's way to decode one family, and how it came off: a point of the curve of quality over passes."""

    family: str
    model: str
    decoder: str
    block_tokens: int
    amount: float | None
    right: Interval
    tokens_per_pass: Interval
    nats: float

    def __str__(self) -> str:
        """Say how it decodes."""
        return self.decoder if self.amount is None else f"{self.decoder} {self.amount:g}, blocks of {self.block_tokens}"


class DecodingRecord(Record):
    """Columns that begin alike have a line each per model (`loss`), or per model and way to decode (`row`).

    `over_control` is the held-out next-token loss less that of the control of equal tokens. `right` is the share of
    right answers, `lost` that of answers which the same model gets right token by token and loses in blocks. Tokens per
    pass are 1 for one token per pass. `nats` is what an answer costs per token under another model.
    """

    device: str
    prompts_count: int
    loss_model: tuple[str, ...]
    loss_nats: tuple[float, ...]
    loss_over_control_nats: tuple[float, ...]
    loss_over_control_low_nats: tuple[float, ...]
    loss_over_control_high_nats: tuple[float, ...]
    row_family: tuple[str, ...]
    row_model: tuple[str, ...]
    row_decoder: tuple[str, ...]
    row_block_tokens: tuple[int, ...]
    row_amount: tuple[float | None, ...]
    row_right_ratio: tuple[float, ...]
    row_right_low_ratio: tuple[float, ...]
    row_right_high_ratio: tuple[float, ...]
    row_lost_ratio: tuple[float, ...]
    row_lost_low_ratio: tuple[float, ...]
    row_lost_high_ratio: tuple[float, ...]
    row_tokens_per_pass: tuple[float, ...]
    row_tokens_per_pass_low: tuple[float, ...]
    row_tokens_per_pass_high: tuple[float, ...]
    row_nats: tuple[float, ...]
    pattern_row: tuple[int, ...] = ()
    pattern_prompt: tuple[str, ...] = ()
    pattern_words: tuple[tuple[str, ...], ...] = ()
    pattern_fixed_in_pass: tuple[tuple[int, ...], ...] = ()

    def ways(self) -> Iterator[Way]:
        """Yield the lines of models and ways to decode."""
        right = (self.row_right_ratio, self.row_right_low_ratio, self.row_right_high_ratio)
        fewer = (self.row_tokens_per_pass, self.row_tokens_per_pass_low, self.row_tokens_per_pass_high)
        what = (self.row_family, self.row_model, self.row_decoder, self.row_block_tokens, self.row_amount)
        rights, passes = (zip(*ends, strict=True) for ends in (right, fewer))
        intervals = ((Interval(*ends) for ends in column) for column in (rights, passes))
        yield from (Way(*line) for line in zip(*what, *intervals, self.row_nats, strict=True))


@dataclass(frozen=True)
class Graded:
    """Lines of a record: one per model and way to decode, and the patterns of the setting that counts first."""

    rows: list[dict[str, Any]]
    patterns: list[dict[str, Any]]

    def __add__(self, more: "Graded") -> "Graded":
        """Put other lines behind these; their patterns point there."""
        moved = [{**pattern, "row": pattern["row"] + len(self.rows)} for pattern in more.patterns]
        return Graded(self.rows + more.rows, self.patterns + moved)


class AnyDecodingRecord(DecodingRecord):
    """What all records of set block decoding tell, whatever else their experiment adds."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


def newest_of_families(results: Path, experiments: Sequence[str]) -> list[AnyDecodingRecord]:
    """Return, for every set of families, the newest record that a clean commit made."""
    found = dict[tuple[str, ...], AnyDecodingRecord]()
    for experiment in experiments:
        for path, _ in clean_records(results, experiment):
            record = read_record(path, AnyDecodingRecord)
            found.setdefault(tuple(dict.fromkeys(record.row_family)), record)
    return list(found.values())
