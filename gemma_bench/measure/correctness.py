"""Speed without correctness is nothing: were the tokens that a fast path wrote the model's own greedy choices."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import log_softmax

from gemma_bench.measure.throughput import Workload
from gemma_bench.models.backend import Backend
from gemma_bench.models.generation import prefill

CHECKED_TOKENS = 32
LARGEST_GAP_NATS = 0.5
"""Sixteen bits break near-ties either way; a token farther than this behind the best is a wrong one."""


@dataclass(frozen=True)
class OutputCheck:
    """How far written tokens are from those that a reference chooses after the same text."""

    has_finite_logits: bool
    same_tokens_ratio: float
    largest_gap_nats: float | None

    @property
    def is_correct(self) -> bool:
        """Whether every token is the reference's choice, or nearly as likely."""
        return self.has_finite_logits and self.largest_gap_nats is not None and self.largest_gap_nats < LARGEST_GAP_NATS


def check_output(
    backend: Backend, workload: Workload, written: Sequence[int], reference: Backend | None = None
) -> OutputCheck:
    """Read what the first sequence of a workload wrote (32 tokens at most) in one pass, and compare each choice.

    Without a reference it is the same model, whose single steps are held against one pass over all tokens: it finds
    broken caches, kernels and clocks that do not wait, and numbers that are none, but no fault that both ways share.
    """
    judge = reference or backend
    prompt = workload.tokens(backend.size, workload.depth_tokens + workload.prompt_tokens)[0].tolist()
    logits = next_logits(judge, prompt, list(written[:CHECKED_TOKENS]))
    is_finite = bool(np.isfinite(logits).all()) and _is_finite(backend, prompt)
    checked = np.asarray(written[: len(logits)])
    if not np.isfinite(logits).all():
        return OutputCheck(False, 0.0, None)
    likely = log_softmax(logits, axis=-1)
    gaps = likely.max(axis=-1) - likely[np.arange(len(checked)), checked]
    return OutputCheck(is_finite, float((logits.argmax(axis=-1) == checked).mean()), float(gaps.max()))


def next_logits(backend: Backend, prompt: list[int], written: list[int]) -> Float[np.ndarray, "written vocab"]:
    """Return the logits before each written token, the whole text read at once."""
    cache = backend.new_cache()
    if len(prompt) > 1:
        prefill(backend, [prompt[:-1]], cache)
    logits: np.ndarray = backend.numpy(backend.logits([[prompt[-1], *written[:-1]]], cache=cache))[0]
    return logits


def _is_finite(backend: Backend, prompt: list[int]) -> bool:
    return bool(np.isfinite(backend.numpy(backend.logits([prompt[:CHECKED_TOKENS]]))).all())
