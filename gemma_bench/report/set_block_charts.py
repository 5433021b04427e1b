"""What set block decoding saves and loses: right answers against tokens per pass, and the price in next-token loss."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gemma_bench.report.chart import Cells, Chart, Dot, Dots, Lines, Series

if TYPE_CHECKING:
    from gemma_bench.experiments.set_block_record import DecodingRecord
    from gemma_bench.experiments.set_block_time import TimeRecord

CAPTION = (
    "Each point is one way to decode, with 95 % intervals: further right are fewer passes, further up more right "
    "answers; where hardly any are right, further down are answers that cost fewer nats under the model at the start. "
    "One token per pass stands at 1. Loss is of next tokens on held-out text, over the control that saw as "
    "many tokens. In the maps a row is a pass: dark tokens are fixed by it, pale ones before."
)
TIME = (
    "How much faster blocks are written than one token at a time, in turn, with the 95 % interval, beside the passes "
    "that they save and the speed-up that the times of single passes foretell (equation 16 of arXiv 2509.04185)."
)
_MOST_PATTERNS = 2
_MOST_WAYS = 8
_NEXT_TOKEN = "next token"  # noqa: S105 - a way to decode
_BEFORE = ("start", "base")
"""What tuning began with, which is no control of it."""
_FLOOR_RATIO = 0.1
_LABEL_SHARE = 0.08
"""Of the height: lines across that are nearer have their names side by side."""


def decoding_charts(records: Sequence["DecodingRecord"]) -> Iterator[Chart]:
    """Yield quality against passes, family by family, and how much the block objective costs in next-token loss."""
    for record in reversed(records):
        for family in dict.fromkeys(row["family"] for row in _table(record, "row")):
            rows = [row for row in _table(record, "row") if row["family"] == family]
            hardly_any_is_right = max(row["right_ratio"] for row in rows) < _FLOOR_RATIO
            for name, some in _by_block(rows, family):
                yield _quality(some, name)
                if hardly_any_is_right:
                    yield _nats(some, name)
        yield _losses(record)
        yield from (_pattern(record, place) for place in range(min(_MOST_PATTERNS, len(record.pattern_row))))


def time_charts(records: Sequence["TimeRecord"]) -> Iterator[Chart]:
    """Yield the speed-up in time beside the saving in passes, and what single passes foretell, library by library."""
    for record in reversed(records):
        passes, foreseen = record.passes_saving_ratio, record.predicted_speedup_ratio
        ends = record.speedup_ratio, record.speedup_low_ratio, record.speedup_high_ratio
        dots = [
            Dot("fewer passes", passes, passes, passes),
            Dot("foreseen speed-up", foreseen, foreseen, foreseen),
            Dot("measured speed-up", *ends),
        ]
        where = f"{record.backend}, {record.device}, {record.dtype}, blocks of {record.block_tokens}"
        yield Dots(f"Blocks over one token at a time: {where}", "times", dots, mark=1.0)


def _pattern(record: "DecodingRecord", place: int) -> Cells:
    """Return which pass fixed which token: one at a time would be a diagonal."""
    words, fixed = record.pattern_words[place], record.pattern_fixed_in_pass[place]
    passes = range(1, max(fixed, default=0) + 1)
    shades = [[1.0 if own == now else 0.25 if own < now else 0.0 for own in fixed] for now in passes]
    texts = [[_visible(word) if own == now else "" for word, own in zip(words, fixed, strict=True)] for now in passes]
    way = list(record.ways())[record.pattern_row[place]]
    title = f"Which pass wrote which token: {way.family}, {way}"
    return Cells(title, "token", [str(now) for now in passes], [str(at + 1) for at in range(len(words))], shades, texts)


def _visible(word: str) -> str:
    """Return a token as it can be seen, though it be a space or the end of a line."""
    return word.replace("\n", "⏎").replace("\t", "⇥") if word.strip(" ") else "␣" * len(word)


def _table(record: "DecodingRecord", prefix: str) -> list[dict[str, Any]]:
    """Return the lines of the columns that begin alike; a record without families is of one text."""
    names = [name for name in type(record).model_fields if name.startswith(f"{prefix}_")]
    columns: Mapping[str, Sequence[Any]] = {name.removeprefix(f"{prefix}_"): getattr(record, name) for name in names}
    lines = [dict(zip(columns, line, strict=True)) for line in zip(*columns.values(), strict=True)]
    return [{"family": record.model_id, **line} for line in lines]


def _quality(rows: Sequence[Mapping[str, Any]], family: str) -> Lines:
    series = [
        _points(name, found, [[100 * row[f"right{end}_ratio"] for row in found] for end in ("", "_low", "_high")])
        for name, found in _ways(rows)
    ]
    marks = _marks(rows, lambda row: 100 * float(row["right_ratio"]), 100)
    return Lines(f"Right answers, by tokens per pass: {family}", "tokens per pass", "right answers, %", series,
                 marks=marks)  # fmt: skip


def _nats(rows: Sequence[Mapping[str, Any]], family: str) -> Lines:
    """Return what answers cost, which still tells good from bad where next to none is right."""
    series = [_points(name, found, [[row["nats"] for row in found]]) for name, found in _ways(rows)]
    marks = _marks(rows, lambda row: float(row["nats"]), max(row["nats"] for row in rows))
    return Lines(f"Nats of an answer, by tokens per pass: {family}", "tokens per pass", "nats per token", series,
                 from_zero=True, marks=marks)  # fmt: skip


def _by_block(rows: Sequence[Mapping[str, Any]], family: str) -> Iterator[tuple[str, Sequence[Mapping[str, Any]]]]:
    """Yield what one chart shows and its name: everything, or a block's size each where that is too much for one."""
    if len(list(_ways(rows))) <= _MOST_WAYS:
        yield family, rows
        return
    for block in sorted({row["block_tokens"] for row in rows if row["decoder"] != _NEXT_TOKEN}):
        yield f"{family}, blocks of {block}", [row for row in rows if row["block_tokens"] in (1, block)]


def _own(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the model that was trained to be decoded in blocks: most rows are its."""
    in_blocks = [str(row["model"]) for row in rows if row["decoder"] != _NEXT_TOKEN]
    return max(in_blocks, key=in_blocks.count)


def _ways(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[Mapping[str, Any]]]]:
    """Yield the series by their names, each from few tokens per pass to many."""
    ways: dict[str, list[Mapping[str, Any]]] = {}
    own = _own(rows)
    for row in rows:
        ways.setdefault(_way(row, own), []).append(row)
    for name, found in ways.items():
        yield name, sorted(found, key=lambda row: float(row["tokens_per_pass"]))


def _marks(
    rows: Sequence[Mapping[str, Any]], height: Callable[[Mapping[str, Any]], float], most: float
) -> list[tuple[float, str]]:
    """Return a line for each control, one token at a time; of lines too near for two names the upper one has both."""
    own = _own(rows)
    controls = {row["model"]: height(row) for row in rows if row["decoder"] == _NEXT_TOKEN}
    marks = list[tuple[float, str]]()
    for name, at in sorted(controls.items(), key=lambda one: -one[1]):
        if name in (own, *_BEFORE):
            continue
        if marks and marks[-1][0] - at < _LABEL_SHARE * most:
            marks[-1:] = [(marks[-1][0], f"{name} and {marks[-1][1]}"), (at, "")]
        else:
            marks.append((at, f"{name}, one by one"))
    return marks


def _way(row: Mapping[str, Any], own: str) -> str:
    """Name a series: all models one token at a time, the trained one's ways, and the others' under their names."""
    if row["decoder"] == _NEXT_TOKEN:
        return "one token at a time"
    way = f"{row['decoder']}, block {row['block_tokens']}"
    return way if row["model"] == own else f"{row['model']}: {way}"


def _points(name: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[Sequence[float]]) -> Series:
    y, low, high = columns if len(columns) > 1 else (columns[0], (), ())
    is_dots = rows[0]["decoder"] == _NEXT_TOKEN or len(rows) == 1
    return Series(name, [row["tokens_per_pass"] for row in rows], y, low, high, is_dots=is_dots)


def _losses(record: "DecodingRecord") -> Dots:
    dots = []
    for row in _table(record, "loss"):
        where = f", {row['family']}" if row["family"] != record.model_id else ""
        figures = (row[f"over_control{end}_nats"] for end in ("", "_low", "_high"))
        dots.append(Dot(f"{row['model']}{where}", *figures))
    return Dots("Next-token loss over the control's", "nats per token", dots, mark=0.0)
