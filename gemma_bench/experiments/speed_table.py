"""The question: which library and precision decodes fastest here, all measured in turn and checked for right output."""

import json
from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from gemma_bench.core.errors import BadInputError
from gemma_bench.core.files import Progress, silent
from gemma_bench.core.intervals import Interval, median_interval
from gemma_bench.core.records import Record
from gemma_bench.measure import summary
from gemma_bench.measure.bandwidth import bandwidth_under
from gemma_bench.measure.throughput import Trial, Workload, in_turn, run_trial
from gemma_bench.measure.turn import turn
from gemma_bench.measure.validity import broken_rules, read_state
from gemma_bench.models.backend import Backend, subject
from gemma_bench.models.loading import load

VERSION = 1

_LEAST_ROUNDS = 2


class Row(BaseModel):
    """One way to run a model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    backend: str
    device: str = "cpu"
    dtype: str | None = None

    @property
    def name(self) -> str:
        """Name the row: `270m torch cpu bfloat16`."""
        return " ".join(filter(None, (self.model, self.backend, self.device, self.dtype)))


class Config(BaseModel):
    """The rows, the first of which the others are compared with and held to, and the work that each does."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: tuple[Row, ...]
    prompt_tokens: int = 16
    new_tokens: int = 16
    rounds: int = 6
    seed: int = 0


_PRECISIONS = ("float32", "bfloat16")

FIXTURE = Config(
    rows=tuple(
        Row(model="tiny", backend=backend, dtype=dtype) for dtype in _PRECISIONS for backend in ("torch", "mlx")
    ),
)
"""Seconds on two cores."""

STUDY = Config(
    rows=(
        Row(model="270m", backend="torch", dtype="bfloat16"),
        Row(model="270m", backend="torch", dtype="float32"),
        Row(model="270m", backend="mlx", dtype="bfloat16"),
        Row(model="270m-4bit", backend="torch"),
        Row(model="270m-4bit", backend="mlx"),
    ),
    new_tokens=8,
    rounds=4,
)
"""Minutes on two cores: MLX's CPU build is slow in 4 bits."""

MINUTES = {"fixture": 0.5, "study": 4}


class TableRecord(Record):
    """One row of the table; `samples` are its decode rates, one per round, in the order of the rounds.

    `same_tokens_ratio` and `largest_gap_nats` are against the table's first row, whatever its precision; what is held
    equal between rows is model, prompt, number of tokens and machine.
    """

    row: str
    backend: str
    device: str
    prompt_count_tokens: int
    new_count_tokens: int
    decode_tokens_per_s: float
    decode_low_tokens_per_s: float
    decode_high_tokens_per_s: float
    first_token_s: float
    weights_bytes: int
    step_bytes: int
    bandwidth_bytes_per_s: float
    bandwidth_share_percent: float
    over_first_row_ratio: float
    over_first_row_low_ratio: float
    over_first_row_high_ratio: float
    reference: str
    has_finite_logits: bool
    same_tokens_ratio: float
    largest_gap_nats: float | None
    output_is_correct: bool
    broken_rules: tuple[str, ...]


def run(config: Config, *, scale: str = "fixture", progress: Progress = silent) -> tuple[TableRecord, ...]:
    """Measure every row once per round, forwards and backwards by turns, and return a record per row."""
    if config.rounds < _LEAST_ROUNDS:
        raise BadInputError(f"rounds must be at least {_LEAST_ROUNDS}, got {config.rounds}")
    if not config.rows:
        raise BadInputError("rows must be at least 1, got 0")
    backends = {row: load(row.model, row.backend, row.device, row.dtype, progress) for row in config.rows}
    with turn() as other_bench_pid:
        for backend in backends.values():
            run_trial(backend, _workload(config))
        before = read_state(other_bench_pid)
        cases = {row: (backend, _workload(config)) for row, backend in backends.items()}
        trials = in_turn(cases, config.rounds, progress)
        after = read_state()
    return tuple(
        _record(
            config, row, backends, trials, broken_rules(before, after, _seconds(trials), _rates(trials[row])), scale
        )
        for row in config.rows
    )


def ratio(rates: Sequence[float], over: Sequence[float]) -> Interval:
    """Return the ratio of two rows, round by round."""
    return median_interval([rate / other for rate, other in zip(rates, over, strict=True)])


def _record(
    config: Config,
    row: Row,
    backends: Mapping[Row, Backend],
    trials: Mapping[Row, Sequence[Trial]],
    rules: Sequence[str],
    scale: str,
) -> TableRecord:
    backend, first, workload = backends[row], config.rows[0], _workload(config)
    figures = summary.rates(trials[row])
    over = ratio(_rates(trials[row]), _rates(trials[first]))
    return TableRecord.measured(
        subject(backend, config.seed),
        experiment="speed_table",
        experiment_version=VERSION,
        config_json=json.dumps({"row": row.name, **config.model_dump()}, sort_keys=True),
        scale=scale,
        samples=tuple(_rates(trials[row])),
        row=row.name,
        backend=backend.name,
        device=backend.device,
        prompt_count_tokens=config.prompt_tokens,
        new_count_tokens=config.new_tokens,
        **{name: figure for name, figure in figures.items() if name in TableRecord.model_fields},
        **summary.ceiling(backend, workload, figures["decode_tokens_per_s"], bandwidth_under(backend)),
        over_first_row_ratio=over.value,
        over_first_row_low_ratio=over.low,
        over_first_row_high_ratio=over.high,
        **summary.output(backend, workload, trials[row], None if row == first else backends[first]),
        broken_rules=tuple(rules),
    )


def _workload(config: Config) -> Workload:
    return Workload(config.prompt_tokens, config.new_tokens, seed=config.seed)


def _rates(trials: Sequence[Trial]) -> list[float]:
    return [trial.decode_tokens_per_s for trial in trials]


def _seconds(trials: Mapping[Row, Sequence[Trial]]) -> float:
    return sum(trial.first_token_s + sum(trial.token_s) for row in trials.values() for trial in row)
