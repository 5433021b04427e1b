"""How fast a model reads and writes: prefill and decode apart, every token's time kept."""

import gc
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from gemma_bench.core.errors import BadInputError
from gemma_bench.models.backend import Array, Backend
from gemma_bench.models.catalog import Size

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
        for name in ("prompt_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise BadInputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.new_tokens < 2:  # noqa: PLR2004 - a rate needs two tokens
            raise BadInputError(f"new_tokens must be at least 2 (a rate needs two), got {self.new_tokens}")
        if self.depth_tokens < 0:
            raise BadInputError(f"depth_tokens must be at least 0, got {self.depth_tokens}")
        needed, context = self.depth_tokens + self.prompt_tokens + self.new_tokens, size.max_position_embeddings
        if needed > context:
            raise BadInputError(f"depth, prompt and new tokens are {needed}, the model's context is {context}")

    def tokens(self, size: Size, count: int) -> Int[np.ndarray, "batch position"]:
        """Return seeded random token ids, none of them special."""
        return np.random.default_rng(self.seed).integers(6, size.vocab_size, (self.batch_size, count))


@dataclass(frozen=True)
class Trial:
    """One repetition's clock readings: at its start, and when each new token was there."""

    workload: Workload
    start_ns: int
    token_ns: tuple[int, ...]
    tokens: tuple[int, ...]

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
    def decode_tokens_per_s(self) -> float:
        """(N − 1) ÷ (t_last − t_first), over the whole batch."""
        return self.workload.batch_size * (len(self.token_ns) - 1) / sum(self.token_s)

    @property
    def mlx_lm_tokens_per_s(self) -> float:
        """N ÷ (t_last − t_first): mlx_lm's figure, which counts a token more than the time holds."""
        return self.decode_tokens_per_s * len(self.token_ns) / (len(self.token_ns) - 1)


def trials(backend: Backend, workload: Workload, count: int, *, warm_up: bool = True) -> Iterator[Trial]:
    """Repeat a workload after a warm-up that is not counted."""
    if count < 1:
        raise BadInputError(f"trials must be at least 1, got {count}")
    workload.check(backend.size)
    if warm_up:
        run_trial(backend, workload)
    for _ in range(count):
        yield run_trial(backend, workload)


def run_trial(backend: Backend, workload: Workload) -> Trial:
    """Run one repetition: greedy, EOS ignored, tokenising outside."""
    rows = workload.tokens(backend.size, workload.depth_tokens + workload.prompt_tokens).tolist()
    cache = backend.new_cache()
    if workload.depth_tokens:
        wait(backend, backend.logits([row[: workload.depth_tokens] for row in rows], cache=cache, last_only=True))
    prompt = [row[workload.depth_tokens :] for row in rows]
    stamps, written = [], []
    with _collector_off():
        backend.synchronize()
        start = clock()
        logits = backend.logits(prompt, cache=cache, last_only=True)
        for index in range(workload.new_tokens):
            chosen = wait(backend, logits)
            stamps.append(clock())
            written.append(int(chosen[0]))
            if index + 1 < workload.new_tokens:
                logits = backend.logits(chosen[:, None].tolist(), cache=cache, last_only=True)
    return Trial(workload, start, tuple(stamps), tuple(written))


def wait(backend: Backend, logits: Array) -> Int[np.ndarray, " batch"]:
    """Wait for logits and choose each sequence's next token; nothing lazy is left when this returns."""
    backend.synchronize()
    chosen: np.ndarray = backend.numpy(logits)[:, -1].argmax(axis=-1)
    return chosen


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
