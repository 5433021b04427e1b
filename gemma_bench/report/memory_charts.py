"""What a training step takes and how long it lasts: predicted beside measured, method beside method."""

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from gemma_bench.core.units import gigabytes, number
from gemma_bench.report.chart import Bar, Bars, Chart, Dot, Dots

if TYPE_CHECKING:
    from gemma_bench.experiments.rank_one_cost import RankOneCostRecord
    from gemma_bench.experiments.step_cost import StepRecord

_KINDS = ("weights", "gradients", "optimizer", "activations", "temporaries")
_PROCESS = "whole process"
_WHOLE_MS = 100
CAPTION = (
    "Bytes of live tensors at the peak of a training step, by kind: forecast without allocating any, and measured; "
    "beside them the footprint of the whole process, libraries and all. "
    "Times are over those of the first method, with 95 % intervals; a step ends before a merge."
)
RULES = "Time of a step over that of a LoRA step of the same model, in turn with it, with 95 % intervals."


def step_charts(records: Sequence["StepRecord"]) -> Iterator[Chart]:
    """Yield memory bars and times over the first method, case by case."""
    for case in dict.fromkeys(record.case for record in records):
        rows = sorted((record for record in records if record.case == case), key=_place)
        kinds = (*_KINDS, _PROCESS)
        yield Bars(f"Memory of a step: {case}", "bytes", kinds, [bar for row in rows for bar in _bars(row)])
        figures = [_time(row) for row in rows]
        yield Dots(f"Time of a step: {case}", f"over {rows[0].method}", figures, mark=1.0)


def rule_charts(records: Sequence["RankOneCostRecord"]) -> Iterator[Chart]:
    """Yield what a step of every rank-1 rule costs over one of LoRA, a chart for each size of a batch."""
    for rows in sorted({record.batch_size_count for record in records}):
        alike = [record for record in records if record.batch_size_count == rows]
        dots = []
        for record in sorted(alike, key=lambda record: record.over_lora_ratio):
            ends = record.over_lora_ratio, record.over_lora_low_ratio, record.over_lora_high_ratio
            dots.append(Dot(f"{record.rule.replace('_', ' ')} ({_milliseconds(record.step_ms)})", *ends))
        tokens = f"{rows} × {alike[0].length_count_tokens} tokens"
        yield Dots(f"Time of a step of {tokens} by rank-1 rule", "over LoRA", dots, mark=1.0)


def _place(record: "StepRecord") -> int:
    """Return where its method stands in the case; the records of a case are of one moment."""
    methods: list[str] = json.loads(record.config_json)["cases"][0]["methods"]
    return methods.index(record.method)


def _bars(record: "StepRecord") -> Iterator[Bar]:
    foreseen = [getattr(record, f"forecast_{kind}_bytes") for kind in _KINDS]
    yield Bar("forecast", [*foreseen, 0], gigabytes(sum(foreseen)), group=_named(record), is_faint=True)
    measured = [getattr(record, f"measured_{kind}_bytes") for kind in _KINDS]
    if None not in measured:
        yield Bar("measured", [*measured, 0], gigabytes(record.measured_peak_bytes))
    process = [0 for _ in _KINDS]
    yield Bar("process", [*process, record.footprint_bytes], gigabytes(record.footprint_bytes))


def _named(record: "StepRecord") -> str:
    return f"{record.method}, rank {record.rank_count}" if record.method in ("lora", "relora") else record.method


def _time(record: "StepRecord") -> Dot:
    value, low, high = (getattr(record, f"over_first{end}_ratio") for end in ("", "_low", "_high"))
    return Dot(f"{record.method} ({_milliseconds(record.step_ms)})", value, low, high)


def _milliseconds(step_ms: float) -> str:
    return f"{number(round(step_ms) if step_ms >= _WHOLE_MS else round(step_ms, 1))} ms"
