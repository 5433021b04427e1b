"""The question: does a token take longer the more were written before it, beyond what the growing cache explains."""

from pydantic import BaseModel, ConfigDict

from gemma_bench.core.errors import BadInputError
from gemma_bench.core.files import Progress, silent
from gemma_bench.core.intervals import Interval
from gemma_bench.core.records import Record
from gemma_bench.measure.steadiness import compare_at_equal_depth
from gemma_bench.measure.throughput import Workload
from gemma_bench.measure.turn import turn
from gemma_bench.measure.validity import watched
from gemma_bench.models.backend import subject
from gemma_bench.models.loading import load

VERSION = 1
MINUTES = {"fixture": 0.2, "study": 2.5}

_LEAST_SHORT = 2


class Config(BaseModel):
    """A generation of `long_tokens`, whose last ones are held against those of one of `short_tokens`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    backend: str = "torch"
    device: str = "cpu"
    dtype: str | None = None
    prompt_tokens: int = 8
    short_tokens: int = 18
    long_tokens: int
    rounds: int

    def check(self) -> None:
        """Refuse what cannot be compared, before anything is loaded."""
        if self.short_tokens < _LEAST_SHORT:
            raise BadInputError(f"short_tokens must be at least {_LEAST_SHORT}, got {self.short_tokens}")
        if self.long_tokens <= self.short_tokens:
            raise BadInputError(f"long_tokens must be more than {self.short_tokens}, got {self.long_tokens}")


FIXTURE = Config(model="tiny", long_tokens=160, rounds=2)
"""Seconds on one core."""

STUDY = Config(model="270m", dtype="bfloat16", long_tokens=512, rounds=2)
"""The real model and the lengths of the study's own claim."""


class SteadyRecord(Record):
    """Medians of the last `short_count_tokens` − 1 token times, in processor seconds, in the order measured.

    `samples` are those of the long generation, `short_token_s` those of the short one.
    """

    backend: str
    device: str
    prompt_count_tokens: int
    short_count_tokens: int
    long_count_tokens: int
    short_token_s: tuple[float, ...]
    long_over_short_ratio: float
    long_over_short_low_ratio: float
    long_over_short_high_ratio: float
    smallest_effect_percent: float
    broken_rules: tuple[str, ...]

    @property
    def ratio(self) -> Interval:
        """Return the time of the long generation's last tokens over the short one's."""
        return Interval(self.long_over_short_ratio, self.long_over_short_low_ratio, self.long_over_short_high_ratio)


def run(config: Config, *, scale: str = "fixture", progress: Progress = silent) -> tuple[SteadyRecord, ...]:
    """Write long and short in turn, the cache being as full at the end of both; return one record."""
    config.check()
    backend = load(config.model, config.backend, config.device, config.dtype, progress)
    Workload(config.prompt_tokens, config.long_tokens).check(backend.size)
    with turn() as other_bench_pid, watched(other_bench_pid) as seen:
        found = compare_at_equal_depth(
            backend, config.short_tokens, config.long_tokens, config.rounds, config.prompt_tokens, progress
        )
    return (
        SteadyRecord.measured(
            subject(backend, 0),
            experiment="steady_rate",
            experiment_version=VERSION,
            config_json=config.model_dump_json(),
            scale=scale,
            samples=found.a,
            backend=backend.name,
            device=backend.device,
            prompt_count_tokens=config.prompt_tokens,
            short_count_tokens=config.short_tokens,
            long_count_tokens=config.long_tokens,
            short_token_s=found.b,
            **found.ratio.named("long_over_short", "ratio"),
            smallest_effect_percent=found.smallest_effect_percent,
            broken_rules=seen.broken_rules([1 / token_s for token_s in found.a]),
        ),
    )
