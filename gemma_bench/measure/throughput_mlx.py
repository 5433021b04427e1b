"""Decoding in MLX the way mlx_lm does it, one step ahead; and mlx_lm's own meter beside ours."""

from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import numpy as np
from jaxtyping import Int
from mlx_lm.generate import stream_generate, wired_limit
from mlx_lm.tokenizer_utils import TokenizerWrapper

from gemma_bench.measure import throughput
from gemma_bench.models.backend_mlx import Cache, MlxBackend
from gemma_bench.models.generation import PREFILL_TOKENS

_CLEAR_EVERY_TOKENS = 256


def mlx_steps(
    backend: MlxBackend, prompt: list[list[int]], cache: Cache, count: int
) -> Iterator[Int[np.ndarray, " batch"]]:
    """Yield each step's choices while the next step is computed already.

    This is mlx_lm's `generate_step` for a batch: the choice stays on the device, memory is wired, the allocator's cache
    is cleared every 256 tokens, the prompt's last token is read apart, and one step is begun beyond the last. On a CPU
    a step that has begun holds up the choice before it (MLX lets few tasks wait): there every token, the first too, is
    up to a step late, as mlx_lm's are.
    """
    with mx.stream(mx.cpu if backend.device == "cpu" else mx.gpu), wired_limit(backend.model):
        step = _next(backend, _read_but_last(backend, mx.array(prompt), cache), cache)
        mx.async_eval(step)
        for index in range(count):
            following = _next(backend, step[0][:, None], cache)
            mx.async_eval(following)
            yield wait(step[0])
            if index % _CLEAR_EVERY_TOKENS == 0:
                mx.clear_cache()
            step = following


def _read_but_last(backend: MlxBackend, tokens: mx.array, cache: Cache) -> mx.array:
    """Read a prompt piece by piece and return its last token, unread."""
    last = tokens.shape[1] - 1
    for start in range(0, last, PREFILL_TOKENS):
        backend.model(tokens[:, start : min(start + PREFILL_TOKENS, last)], cache=cache)
        mx.eval([layer.state for layer in cache])
        mx.clear_cache()
    return tokens[:, last:]


def _next(backend: MlxBackend, tokens: mx.array, cache: Cache) -> tuple[mx.array, mx.array]:
    """Describe a step: its choices and, as mlx_lm computes them, log-probabilities (5 % of a token on a CPU)."""
    logits = backend.model(tokens, cache=cache)[:, -1]
    log_probabilities = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    return mx.argmax(log_probabilities, axis=-1), log_probabilities


def wait(chosen: mx.array) -> Int[np.ndarray, " batch"]:
    """Wait for one step's choices and for no later one: the queue behind them stays filled."""
    return np.array(chosen)


def both_meters(backend: MlxBackend, prompt: list[int], new_tokens: int) -> tuple[float, float]:
    """Return our decode rate and mlx_lm's with its N/(N − 1) taken out, in tok/s, of one and the same generation."""
    stamps, last = [], None
    for last in _generation(backend, prompt, new_tokens):  # noqa: B007
        stamps.append(throughput.clock())
    assert last is not None  # noqa: S101 - max_tokens is at least 2
    ours = (len(stamps) - 1) / ((stamps[-1] - stamps[0]) / 1e9)
    return ours, without_bias(last.generation_tps, len(stamps))


def mlx_lm_tokens_per_s(backend: MlxBackend, workload: throughput.Workload) -> float:
    """Return mlx_lm's own decode rate on a workload of ours, as `mlx_lm.benchmark` reads it, its bias taken out."""
    prompt = workload.tokens(backend.size, workload.prompt_tokens)[0].tolist()
    *_, last = _generation(backend, prompt, workload.new_tokens)
    return without_bias(last.generation_tps, workload.new_tokens)


def _generation(backend: MlxBackend, prompt: list[int], new_tokens: int) -> Iterator[Any]:
    tokenizer: Any = TokenizerWrapper(backend.tokenizer, eos_token_ids=set())
    yield from stream_generate(backend.model, tokenizer, prompt, max_tokens=new_tokens)


def without_bias(tokens_per_s: float, count: int) -> float:
    """Take out of mlx_lm's rate the token whose time it does not count."""
    return tokens_per_s * (count - 1) / count
