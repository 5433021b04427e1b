"""What the chapter on capacity found: curves and their plateau, capacity by size, rounding, layers, the hand-over."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from statistics import median
from typing import TYPE_CHECKING

from gemma_bench.core.units import number
from gemma_bench.report.chart import Cells, Chart, Dot, Dots, Lines, Series, around

if TYPE_CHECKING:
    from gemma_bench.experiments.capacity_record import CapacityRecord
    from gemma_bench.experiments.fine_tune_memorization import FineTuneRecord
    from gemma_bench.experiments.layer_capacity import LayerRecord
    from gemma_bench.experiments.quantized_memory import QuantizedRecord

PUBLISHED = {
    "float32": {80_352: 3.39e5, 468_864: 1.71e6, 667_136: 2.66e6, 3_700_224: 1.36e7, 6_859_264: 2.71e7},
    "bfloat16": {80_352: 3.16e5, 468_864: 1.69e6, 667_136: 2.60e6, 3_700_224: 1.30e7, 6_859_264: 2.51e7},
}
"""Capacity in bits by parameters, as published (Morris et al., arXiv:2505.24832v3): five of the rows of its table."""

SCALING = (
    "Bits that models hold of random strings, per parameter, against the bits of data they were given: what fits is "
    "held, then comes a plateau. Means over seeds with the 95 % interval of Student's t; capacity is the most that any "
    "data size made a model hold."
)
ROUNDING = "Share of the memorised bits that is left after all matrices were rounded, median over seeds."
LAYERS = (
    "Marginal capacity: what is lost when a block stays frozen at its random start, per parameter of it, with the 95 % "
    "interval over seeds. The map: bits lost when one part's weights are shaken; compare within a row, not between."
)
FINE_TUNE = (
    "Bits per sequence learnt by heart, against a reference that saw others of its kind, and bits gained on sequences "
    "it never saw; median over seeds, and the course of the first one."
)


def scaling_charts(records: Sequence["CapacityRecord"]) -> Iterator[Chart]:
    """Yield bits held against bits of data, and capacity against parameters."""
    rows = sorted(records, key=lambda record: record.parameters_count)
    curves = [_curve(record, len(rows) > 1) for record in rows]
    yield Lines("Bits held, by the bits of data", "bits of data per parameter", "bits held per parameter", curves,
                x_is_log=True, from_zero=True)  # fmt: skip
    if len(rows) > 1:
        of_kind = {kind: [row for row in rows if _kind(row) == kind] for kind in dict.fromkeys(map(_kind, rows))}
        series = [_sizes(kind, found) for kind, found in of_kind.items()]
        series += [
            Series(f"published, {precision}", tuple(row), tuple(row.values()), is_dots=True)
            for precision, row in PUBLISHED.items()
        ]
        yield Lines("Capacity, by size", "parameters", "bits held", series, x_is_log=True, y_is_log=True)
        dots = [Dot(_named(row), *around(row.samples), samples=row.samples) for row in rows]
        yield Dots("Capacity per parameter: a dot per seed", "bits per parameter", dots)


def _curve(record: "CapacityRecord", is_named: bool) -> Series:
    points = sorted((ratio, bits / record.parameters_count) for ratio, _, bits, _ in record.points())
    found = {ratio: around([held for _, held in of]) for ratio, of in groupby(points, key=lambda pair: pair[0])}
    value, low, high = zip(*found.values(), strict=True)
    return Series(_named(record) if is_named else "", tuple(found), value, low, high)


def _named(record: "CapacityRecord") -> str:
    return f"{record.parameters_count:,} {_kind(record)}"


def _kind(record: "CapacityRecord") -> str:
    return f"{record.style}, {record.dtype}"


def _sizes(kind: str, rows: Sequence["CapacityRecord"]) -> Series:
    value, low, high = zip(*(around(row.samples) for row in rows), strict=True)
    counts = [row.parameters_count for row in rows]
    bits, least, most = (
        [each * count for each, count in zip(column, counts, strict=True)] for column in (value, low, high)
    )
    return Series(kind, counts, bits, least, most, is_dots=len(rows) == 1)


def rounding_charts(records: Sequence["QuantizedRecord"]) -> Iterator[Chart]:
    """Yield what rounding keeps over bits: a colour per fill ratio, dashed for the plain rounding."""
    record = records[0]
    series = []
    for place, fill in enumerate(dict.fromkeys(record.fill_bits_per_parameter)):
        for rounding, is_dashed in (("fitted", False), ("min max", True)):
            bits = sorted(set(record.bits))
            kept = [100 * median(record.kept(few, rounding, fill)) for few in bits]
            name = f"{fill:g} bits/parameter{', min-max' if is_dashed else ''}"
            series.append(Series(name, bits, kept, is_dashed=is_dashed, colour=place))
    label = f"bits per weight (+ {32 / record.group_size:g} for scale and bias)"
    yield Lines("What rounding leaves", label, "memorised bits kept, %", series, from_zero=True)


def layer_charts(records: Sequence["LayerRecord"]) -> Iterator[Chart]:
    """Yield marginal capacity by block, and the map of noise sensitivity, shaded within each part."""
    record = records[0]
    blocks = enumerate(zip(*record.marginals(), strict=True))
    dots = [Dot(f"block {block}", *around(found), samples=found) for block, found in blocks]
    yield Dots("Marginal capacity by depth: a dot per seed", "bits per parameter of the block", dots, mark=0.0)
    fills, parts = sorted(set(record.noise_fill_bits_per_parameter)), list(dict.fromkeys(record.noise_parts))
    lost = [record.noise_lost_bits_per_parameter[place :: len(parts)] for place in range(len(parts))]
    shades = [[max(bits, 0) / (max(row) or 1.0) for bits in row] for row in lost]
    texts = [[f"{bits:.2g}" for bits in row] for row in lost]
    title = f"Bits lost per parameter at {100 * record.noise_ratio:g} % noise"
    yield Cells(title, "bits of data per parameter", parts, [f"{fill:g}" for fill in fills], shades, texts)


def fine_tune_charts(records: Sequence["FineTuneRecord"]) -> Iterator[Chart]:
    """Yield bits learnt by heart and bits generalised, over data size and over the course, arm by arm."""
    for record in reversed(records):
        how = "all weights" if record.rank is None else f"LoRA {record.rank}"
        yield _over_sizes(record, f"{record.model}, {how}: by heart, or in general")
        yield _courses(record, f"{record.model}, {how}: the course, dashed in general")


def _over_sizes(record: "FineTuneRecord", title: str) -> Lines:
    sizes = sorted(set(record.sequences_counts))
    names = {"memorised_bits_per_sequence": "by heart", "generalised_bits_per_sequence": "generalised"}
    series = [Series(name, sizes, [median(record.column(of, size)) for size in sizes]) for of, name in names.items()]
    full_at = record.capacity_bits * record.sequences_counts[-1] / record.data_bits[-1]
    uprights = [(full_at, "data = capacity")]
    return Lines(title, "sequences", "bits per sequence", series, x_is_log=True, from_zero=True, uprights=uprights)


def _courses(record: "FineTuneRecord", title: str) -> Lines:
    series = []
    sizes = sorted(set(record.sequences_counts))
    for place, size in enumerate(record.sequences_counts):
        if record.seeds[place] == record.seeds[0]:
            visits, colour = record.readings_visits[place], sizes.index(size)
            by_heart, general = (
                getattr(record, f"readings_{what}_bits_per_sequence")[place] for what in ("memorised", "generalised")
            )
            series.append(Series(f"{number(size)} sequences", visits, by_heart, colour=colour))
            series.append(Series("", visits, general, is_dashed=True, colour=colour))
    return Lines(title, "visits per sequence", "bits per sequence", series, from_zero=True)
