"""The question: does a fine-tune learn samples by heart until it is full, and only then what they have in common.

Morris et al., arXiv:2505.24832v3, on text: what a sample costs the fine-tuned model less than a reference that saw many
others of its kind, but not this one, is learnt by heart; what held-out samples cost less than before is generalised.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from gemma_bench.core.errors import BadInputError
from gemma_bench.core.files import Progress, silent
from gemma_bench.core.records import Record
from gemma_bench.experiments.fine_tune_runs import Arm, Found, measure
from gemma_bench.training.adapters import PROJECTIONS

VERSION = 1
MINUTES = {"fixture": 0.5, "study": 25, "full": 8}


class Config(BaseModel):
    """The fine-tunes to compare, each of which gives a record."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    arms: tuple[Arm, ...]


_TINY = Arm(
    model="memoriser",
    rank=None,
    length_tokens=32,
    sequences_counts=(32, 128, 512, 2048),
    visits=100,
    batch_size=32,
    rate=0.02,
    base_sequences=64_000,
    reference_sequences=65_536,
    held_out_sequences=512,
    readings=8,
    seeds=(0, 1, 2),
)

FIXTURE = Config(
    arms=(
        _TINY.model_copy(
            update={
                "sequences_counts": (8, 64),
                "visits": 60,
                "base_sequences": 6_400,
                "reference_sequences": 1_024,
                "held_out_sequences": 128,
                "readings": 3,
                "seeds": (0,),
            }
        ),
    )
)
"""Seconds on one core."""

_LORA = Arm(
    model="270m",
    rank=1,
    targets=("q_proj", "v_proj"),
    length_tokens=64,
    sequences_counts=(64, 256, 1024, 4096),
    visits=25,
    batch_size=128,
    rate=0.002,
    reference_sequences=8_192,
    held_out_sequences=1_024,
    readings=6,
    seeds=(0,),
)

STUDY = Config(
    arms=(
        _TINY,
        _LORA.model_copy(
            update={
                "targets": ("v_proj",),
                "text_vocabulary": True,
                "length_tokens": 16,
                "sequences_counts": (16, 64, 320),
                "visits": 10,
                "batch_size": 32,
                "reference_sequences": 512,
                "held_out_sequences": 128,
                "readings": 2,
                "rate": 0.004,
            }
        ),
    )
)
"""A tiny Gemma 3 of 11 thousand parameters, all of them trained, from a tenth of what it can hold to six times; and 16
thousand parameters of an adapter beside the real 270m, which is cut to the tokens of the text: minutes, not hours."""

FULL = Config(
    arms=(
        _LORA,
        _LORA.model_copy(
            update={"rank": 8, "targets": PROJECTIONS, "rate": 0.001, "sequences_counts": (256, 1024, 2048)}
        ),
    )
)
"""The real 270m on one GPU: the smallest adapter that there is, which can be filled, and a usual one."""


class FineTuneRecord(Record):
    """One arm; `samples` are memorised bits per sequence. Columns run over data sizes within seeds, in that order.

    `readings_…` hold one row per point: its course over the visits. Bits per sequence are means; held-out sequences
    are read against the reference in the same way as a control, which should count next to nothing.
    """

    model: str
    rank: int | None
    trained_parameters_count: int
    length_tokens: int
    visits_count: int
    reference_sequences_count: int
    seeds: tuple[int, ...]
    sequences_counts: tuple[int, ...]
    data_bits: tuple[float, ...]
    memorised_bits: tuple[float, ...]
    memorised_bits_per_sequence: tuple[float, ...]
    generalised_bits_per_sequence: tuple[float, ...]
    control_bits_per_sequence: tuple[float, ...]
    held_out_bits_per_token: tuple[float, ...]
    base_held_out_bits_per_token: tuple[float, ...]
    reference_held_out_bits_per_token: tuple[float, ...]
    readings_visits: tuple[tuple[float, ...], ...]
    readings_memorised_bits_per_sequence: tuple[tuple[float, ...], ...]
    readings_generalised_bits_per_sequence: tuple[tuple[float, ...], ...]
    capacity_bits: float
    capacity_bits_per_parameter: float

    def column(self, name: str, sequences: int) -> list[float]:
        """Return a column's figures at one data size, one for each seed."""
        pairs = zip(self.sequences_counts, getattr(self, name), strict=True)
        return [figure for count, figure in pairs if count == sequences]


def run(
    config: Config,
    *,
    scale: str = "fixture",
    device: str = "cpu",
    progress: Progress = silent,
    state: Path | None = None,
) -> Iterator[FineTuneRecord]:
    """Fine-tune every arm at every data size and seed, and yield a record per arm."""
    if not config.arms:
        raise BadInputError("arms must be at least 1, got 0")
    for arm in config.arms:
        arm.check()
    for place, arm in enumerate(config.arms):
        yield _record(arm, measure(arm, device, progress, None if state is None else state / f"arm-{place}"), scale)


def _record(arm: Arm, found: Found, scale: str) -> FineTuneRecord:
    columns: dict[str, Any] = found.columns()
    capacity = max(columns["memorised_bits"])
    return FineTuneRecord.measured(
        found.subject,
        experiment="fine_tune_memorization",
        experiment_version=VERSION,
        config_json=json.dumps(arm.model_dump(), sort_keys=True),
        scale=scale,
        samples=columns["memorised_bits_per_sequence"],
        model=arm.model,
        rank=arm.rank,
        trained_parameters_count=found.trained_parameters,
        length_tokens=arm.length_tokens,
        visits_count=arm.visits,
        reference_sequences_count=arm.reference_sequences,
        **columns,
        capacity_bits=capacity,
        capacity_bits_per_parameter=capacity / found.trained_parameters,
    )
