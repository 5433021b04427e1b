"""Speed without correctness is nothing: were the tokens that a fast path wrote the model's own greedy choices."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import log_softmax

from gemma_bench.measure.throughput import Workload
from gemma_bench.models.backend import Backend
from gemma_bench.models.generation import prefill

CHECKED_TOKENS = 16
"""As many at the start of a row are checked and as many at its end, where the cache is fullest."""

LARGEST_GAP_NATS = 0.5
"""Sixteen bits break near-ties either way; a token farther than this behind the best is a wrong one."""


@dataclass(frozen=True)
class OutputCheck:
    """How far written tokens are from those that a reference chooses after the same text."""

    has_finite_logits: bool
    same_tokens_ratio: float
    largest_gap_nats: float | None
    checked_count_tokens: int

    @property
    def is_correct(self) -> bool:
        """Whether every token is the reference's choice, or nearly as likely."""
        return self.has_finite_logits and self.largest_gap_nats is not None and self.largest_gap_nats < LARGEST_GAP_NATS


def check_output(
    backend: Backend, workload: Workload, rows: Sequence[Sequence[int]], reference: Backend | None = None
) -> OutputCheck:
    """Read what every row of a workload wrote, its first 16 tokens and its last 16, and compare each choice.

    Without a reference it is the same model, whose single steps are held against reading many tokens at once: it finds
    broken caches, kernels and clocks that do not wait, and numbers that are none, but no fault that both ways share.
    """
    judge = reference or backend
    prompts = workload.tokens(backend.size, workload.depth_tokens + workload.prompt_tokens).tolist()
    pieces = [piece for prompt, row in zip(prompts, rows, strict=True) for piece in _pieces(prompt, list(row))]
    found = [_compared(next_logits(judge, *piece), piece[1]) for piece in pieces]
    count = sum(len(written) for _, written in pieces)
    if any(gap is None for _, gap in found):
        return OutputCheck(False, 0.0, None, count)
    return OutputCheck(
        _is_finite(backend, prompts[0]),
        sum(same for same, _ in found) / count,
        max(gap for _, gap in found if gap is not None),
        count,
    )


def _pieces(prompt: list[int], row: list[int]) -> list[tuple[list[int], list[int]]]:
    """Return the tokens of a row to check, each run of them with all that comes before it."""
    if len(row) <= 2 * CHECKED_TOKENS:
        return [(prompt, row)]
    return [(prompt, row[:CHECKED_TOKENS]), (prompt + row[:-CHECKED_TOKENS], row[-CHECKED_TOKENS:])]


def _compared(logits: Float[np.ndarray, "written vocab"], written: list[int]) -> tuple[int, float | None]:
    """Return how many tokens are the best, and how far the worst is behind; `None` where logits are no numbers."""
    if not np.isfinite(logits).all():
        return 0, None
    likely = log_softmax(logits, axis=-1)
    gaps = likely.max(axis=-1) - likely[np.arange(len(written)), written]
    return int((logits.argmax(axis=-1) == written).sum()), float(gaps.max())


def next_logits(backend: Backend, prompt: list[int], written: list[int]) -> Float[np.ndarray, "written vocab"]:
    """Return the logits before each written token, the whole text read at once."""
    cache = backend.new_cache()
    if len(prompt) > 1:
        prefill(backend, [prompt[:-1]], cache)
    logits: np.ndarray = backend.numpy(backend.logits([[prompt[-1], *written[:-1]]], cache=cache))[0]
    return logits


def _is_finite(backend: Backend, prompt: list[int]) -> bool:
    return bool(np.isfinite(backend.numpy(backend.logits([prompt[:CHECKED_TOKENS]]))).all())
