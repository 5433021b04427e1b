"""How fast a model reads and writes: prefill and decode apart, every token's time kept."""

import gc
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Int

from gemma_bench.core.errors import BadInputError
from gemma_bench.core.files import Progress, silent
from gemma_bench.models.backend import Array, Backend, Cache
from gemma_bench.models.catalog import Size
from gemma_bench.models.generation import prefill

_SAMPLES_FOR_PERCENTILE = {90: 44, 95: 90, 99: 459}
"""Below these a percentile is a guess: binomial bound at 99 % confidence, as MLPerf's LoadGen asks for."""


@dataclass(frozen=True)
class Workload:
    """What one repetition does: read a prompt (behind `depth_tokens` read before), then write tokens, EOS or not."""

    prompt_tokens: int = 512
    new_tokens: int = 128
    batch_size: int = 1
    depth_tokens: int = 0
    seed: int = 0

    def check(self, size: Size) -> None:
        """Refuse a workload that has no meaning for this model."""
        self.check_counts()
        needed, context = self.depth_tokens + self.prompt_tokens + self.new_tokens, size.max_position_embeddings
        if needed > context:
            raise BadInputError(f"depth, prompt and new tokens are {needed}, the model's context is {context}")

    def check_counts(self) -> None:
        """Refuse a workload that has no meaning for any model; a rate needs two tokens."""
        least = {"prompt_tokens": 1, "new_tokens": 2, "batch_size": 1, "depth_tokens": 0}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise BadInputError(f"{name} must be at least {smallest}, got {getattr(self, name)}")

    def tokens(self, size: Size, count: int) -> Int[np.ndarray, "batch position"]:
        """Return seeded random token ids, none of them special."""
        return np.random.default_rng(self.seed).integers(6, size.vocab_size, (self.batch_size, count))


@dataclass(frozen=True)
class Trial:
    """One repetition's clock readings: at its start, and when each new token was there; and what each row wrote."""

    workload: Workload
    start_ns: int
    token_ns: tuple[int, ...]
    rows: tuple[tuple[int, ...], ...]

    @property
    def first_token_s(self) -> float:
        """Time to the first token: the prefill and one choice."""
        return (self.token_ns[0] - self.start_ns) / 1e9

    @property
    def prefill_tokens_per_s(self) -> float:
        """Prompt tokens of the whole batch over the time to the first token."""
        return self.workload.prompt_tokens * self.workload.batch_size / self.first_token_s

    @property
    def token_s(self) -> tuple[float, ...]:
        """The time of each token after the first."""
        return tuple(np.diff(np.array(self.token_ns)) / 1e9)

    @property
    def duration_s(self) -> float:
        """Time from the start to the last token."""
        return (self.token_ns[-1] - self.start_ns) / 1e9

    @property
    def decode_tokens_per_s(self) -> float:
        """(N − 1) ÷ (t_last − t_first), over the whole batch."""
        return self.workload.batch_size * (len(self.token_ns) - 1) / sum(self.token_s)

    @property
    def mlx_lm_tokens_per_s(self) -> float:
        """N ÷ (t_last − t_first): mlx_lm's figure, which counts a token more than the time holds."""
        return self.decode_tokens_per_s * len(self.token_ns) / (len(self.token_ns) - 1)


Name = TypeVar("Name")


def in_turn(
    cases: Mapping[Name, tuple[Backend, Workload]], rounds: int, progress: Progress = silent
) -> Iterator[dict[Name, Trial]]:
    """Yield rounds: every case once, A B C and then C B A, so that a machine's moods meet all of them alike."""
    names = list(cases)
    for turn in range(rounds):
        done = {name: run_trial(*cases[name]) for name in (names if turn % 2 == 0 else names[::-1])}
        progress("measuring", turn + 1, rounds)
        yield done


def until_interrupted(rounds: Iterable[dict[Name, Trial]]) -> list[dict[Name, Trial]]:
    """Return the rounds that end before Ctrl-C; before the first has ended it interrupts as ever."""
    done = []
    try:
        for trials_of_round in rounds:
            done.append(trials_of_round)
    except KeyboardInterrupt:
        if not done:
            raise
    return done


def by_case(rounds: Sequence[Mapping[Name, Trial]]) -> dict[Name, list[Trial]]:
    """Return every case's trials, one of each round."""
    return {name: [done[name] for done in rounds] for name in rounds[0]}


def run_trial(backend: Backend, workload: Workload, read_ns: Callable[[], int] | None = None) -> Trial:
    """Run one repetition: greedy, EOS ignored, tokenising outside; `read_ns` takes the place of `clock`."""
    read_ns = read_ns or clock
    prompt, cache = read_before(backend, workload)
    steps, stamps, written = steps_of(backend), [], []
    with _collector_off():
        backend.synchronize()
        start = read_ns()
        for chosen in steps(backend, prompt, cache, workload.new_tokens):
            stamps.append(read_ns())
            written.append(chosen)
        backend.synchronize()
    rows = np.stack(written, axis=1).tolist()
    return Trial(workload, start, tuple(stamps), tuple(map(tuple, rows)))


def read_before(backend: Backend, workload: Workload) -> tuple[list[list[int]], Cache]:
    """Return the prompts, and a cache that has read what lies before them."""
    rows = workload.tokens(backend.size, workload.depth_tokens + workload.prompt_tokens).tolist()
    cache = backend.new_cache()
    if workload.depth_tokens:
        wait(backend, prefill(backend, [row[: workload.depth_tokens] for row in rows], cache)[:, -1].argmax(-1))
    return [row[workload.depth_tokens :] for row in rows], cache


def steps_of(backend: Backend) -> Callable[..., Iterator[Int[np.ndarray, " batch"]]]:
    """Return the decoding loop of a library: MLX's is mlx_lm's, which runs one step ahead."""
    if backend.name == "mlx":
        from gemma_bench.measure.throughput_mlx import mlx_steps

        return mlx_steps
    return step_by_step


def step_by_step(
    backend: Backend, prompt: list[list[int]], cache: Cache, count: int
) -> Iterator[Int[np.ndarray, " batch"]]:
    """Yield each step's choices, each step begun when the one before has ended."""
    logits = prefill(backend, prompt, cache)
    for index in range(count):
        chosen = wait(backend, logits[:, -1].argmax(-1))
        yield chosen
        if index + 1 < count:
            logits = backend.logits(chosen[:, None].tolist(), cache=cache, last_only=True)


def wait(backend: Backend, chosen: Array) -> Int[np.ndarray, " batch"]:
    """Wait for choices and bring them over: they cannot be read before everything they depend on is computed."""
    return backend.numpy(chosen).astype(np.int64)


def clock() -> int:
    """Read the clock that all figures come from, in nanoseconds."""
    return time.perf_counter_ns()


@contextmanager
def _collector_off() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def percentile(samples: Sequence[float], percent: int) -> float | None:
    """Return a percentile, or `None` where there are too few samples for it (p90 ≥ 44, p95 ≥ 90, p99 ≥ 459)."""
    if len(samples) < _SAMPLES_FOR_PERCENTILE[percent]:
        return None
    return float(np.percentile(np.asarray(samples), percent))
