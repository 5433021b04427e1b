"""The question: which library and precision decodes fastest here, and what does its rounding cost in perplexity.

All rows are measured in turn. Each is held to the tokens of the first row with the same weights: that finds a wrong
product or cache. What coarser weights cost is the perplexity's to say.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

from gemma_bench.core.errors import BadInputError
from gemma_bench.core.files import Progress, silent
from gemma_bench.core.intervals import Interval, median_interval
from gemma_bench.core.records import Record
from gemma_bench.measure import summary
from gemma_bench.measure.bandwidth import bandwidth_under
from gemma_bench.measure.comparison import by_round, smallest_effect_percent
from gemma_bench.measure.known_text import NAME, known_tokens
from gemma_bench.measure.likelihood import token_nats
from gemma_bench.measure.throughput import Trial, Workload, by_case, in_turn, run_trial, until_interrupted
from gemma_bench.measure.turn import turn
from gemma_bench.measure.validity import State, broken_rules, read_state
from gemma_bench.models.backend import Backend, subject
from gemma_bench.models.loading import LLAMA, is_installed, load
from gemma_bench.models.weights import locate

VERSION = 2

_LEAST_ROUNDS = 2


class Row(BaseModel):
    """One way to run a model; a slow library may write fewer tokens, and leave the text unread.

    A row that `may_be_missing` is left out where its library is not installed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    backend: str
    device: str = "cpu"
    dtype: str | None = None
    new_tokens: int | None = None
    reads_text: bool = True
    may_be_missing: bool = False

    @property
    def name(self) -> str:
        """Name the row: `270m torch cpu bfloat16`."""
        return " ".join(filter(None, (self.model, self.backend, self.device, self.dtype)))


class Config(BaseModel):
    """The rows, the first of which the others are compared with, and the work that each does.

    The perplexity is that of the text's first `text_tokens`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: tuple[Row, ...]
    prompt_tokens: int = 16
    new_tokens: int = 16
    rounds: int = 6
    text_tokens: int = 1024
    seed: int = 0


_PRECISIONS = ("float32", "bfloat16")

FIXTURE = Config(
    rows=tuple(
        Row(model="tiny", backend=backend, dtype=dtype) for dtype in _PRECISIONS for backend in ("torch", "mlx")
    ),
    text_tokens=256,
)
"""Seconds on two cores."""

STUDY = Config(
    rows=(
        Row(model="270m", backend="torch", dtype="bfloat16"),
        Row(model="270m", backend="torch", dtype="float32"),
        *(Row(model=f"270m-{scheme}", backend="torch") for scheme in ("4bit", "fitted", "head8", "mixed", "all8")),
        Row(model="270m", backend=LLAMA, dtype="Q4_K_M", may_be_missing=True),
        Row(model="270m", backend="mlx", dtype="bfloat16", new_tokens=8, reads_text=False),
        Row(model="270m-4bit", backend="mlx", new_tokens=4, reads_text=False),
    ),
    new_tokens=32,
    rounds=5,
)
"""Minutes on two cores: MLX's CPU build is slow in 4 bits."""

MINUTES = {"fixture": 0.5, "study": 5}


class TableRecord(Record):
    """One row of the table; `samples` are its decode rates, one per round, in the order of the rounds.

    `same_tokens_ratio` and `largest_gap_nats` are against the first row with the same weights; what is held equal
    between rows is the model that was rounded, prompt, number of tokens and machine. `smallest_effect_percent` is how
    far the ratio to the first row moved from round to round. `token_nats` are the text's, whose
    mean is the logarithm of `perplexity`; that is `None` where the row does not read the text. `is_complete` is not so
    after Ctrl-C: fewer rounds, in every row as many, and no text.
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
    smallest_effect_percent: float | None = None
    text: str
    text_count_tokens: int
    perplexity: float | None
    token_nats: tuple[float, ...] = ()
    reference: str
    has_finite_logits: bool
    same_tokens_ratio: float
    largest_gap_nats: float | None
    checked_count_tokens: int | None = None
    output_is_correct: bool
    broken_rules: tuple[str, ...]
    is_complete: bool = True


def run(config: Config, *, scale: str = "fixture", progress: Progress = silent) -> Iterator[TableRecord]:
    """Measure every row once per round, forwards and backwards by turns, and yield a record per row.

    A model that is not here is refused, with the command that makes it, before any is loaded. Ctrl-C after a round
    ends the rounds and goes on to the caller after the records of those that ended.
    """
    if config.rounds < _LEAST_ROUNDS:
        raise BadInputError(f"rounds must be at least {_LEAST_ROUNDS}, got {config.rounds}")
    if not config.rows:
        raise BadInputError("rows must be at least 1, got 0")
    rows = [row for row in config.rows if not row.may_be_missing or is_installed(row.backend)]
    folders = {row: locate(row.model, progress) for row in rows}
    backends = {row: load(folders[row], row.backend, row.device, row.dtype, progress) for row in rows}
    cases = {row: (backend, _workload(config, row)) for row, backend in backends.items()}
    for row, (backend, workload) in cases.items():
        workload.check(backend.size)
        _text(config, row, backend)
    with turn() as other_bench_pid:
        for case in cases.values():
            run_trial(*case)
        before = read_state(other_bench_pid)
        trials = by_case(until_interrupted(in_turn(cases, config.rounds, progress)))
        states = before, read_state()
    return _records(config, backends, trials, states, scale)


def ratio(rates: Sequence[float], over: Sequence[float]) -> Interval:
    """Return the ratio of two rows, round by round."""
    return median_interval(by_round(rates, over))


def _records(
    config: Config,
    backends: Mapping[Row, Backend],
    trials: Mapping[Row, Sequence[Trial]],
    states: tuple[State, State],
    scale: str,
) -> Iterator[TableRecord]:
    seconds = sum(trial.duration_s for done in trials.values() for trial in done)
    for row in trials:
        yield _record(config, row, backends, trials, broken_rules(*states, seconds, _rates(trials[row])), scale)
    if not _is_complete(config, trials):
        raise KeyboardInterrupt


def _record(
    config: Config,
    row: Row,
    backends: Mapping[Row, Backend],
    trials: Mapping[Row, Sequence[Trial]],
    rules: Sequence[str],
    scale: str,
) -> TableRecord:
    backend, first, workload = backends[row], config.rows[0], _workload(config, row)
    is_complete, figures = _is_complete(config, trials), summary.rates(trials[row])
    text = _text(config, row, backend) if is_complete else []
    nats = token_nats(backend, text) if text else np.array([])
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
        new_count_tokens=workload.new_tokens,
        **{name: figure for name, figure in figures.items() if name in TableRecord.model_fields},
        **summary.ceiling(backend, workload, figures["decode_tokens_per_s"], bandwidth_under(backend)),
        **over.named("over_first_row", "ratio"),
        smallest_effect_percent=smallest_effect_percent(by_round(*map(_rates, (trials[row], trials[first])))),
        text=NAME,
        text_count_tokens=len(text),
        perplexity=float(np.exp(nats.mean())) if text else None,
        token_nats=tuple(nats.tolist()),
        **summary.output(backend, workload, trials[row], _same_weights(backend, backends.values())),
        broken_rules=tuple(rules),
        is_complete=is_complete,
    )


def _is_complete(config: Config, trials: Mapping[Row, Sequence[Trial]]) -> bool:
    return all(len(done) == config.rounds for done in trials.values())


def _same_weights(backend: Backend, others: Iterable[Backend]) -> Backend | None:
    """Return the first backend with the same weights, which judges this one's tokens; `None` if it is the first."""
    first = next(other for other in others if other.folder.sha256 == backend.folder.sha256)
    return None if first is backend else first


def _text(config: Config, row: Row, backend: Backend) -> list[int]:
    """Return the tokens that a row reads for its perplexity."""
    context = backend.size.max_position_embeddings
    if config.text_tokens > context:
        raise BadInputError(f"text_tokens must be at most the model's context of {context}, got {config.text_tokens}")
    return known_tokens(backend.tokenizer, config.text_tokens) if row.reads_text else []


def _workload(config: Config, row: Row) -> Workload:
    return Workload(config.prompt_tokens, row.new_tokens or config.new_tokens, seed=config.seed)


def _rates(trials: Sequence[Trial]) -> list[float]:
    return [trial.decode_tokens_per_s for trial in trials]
