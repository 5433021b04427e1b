"""mlx_lm's own meter and ours, read off one and the same generation."""

from typing import Any

from mlx_lm.generate import stream_generate
from mlx_lm.tokenizer_utils import TokenizerWrapper

from gemma_bench.measure import throughput
from gemma_bench.models.backend_mlx import MlxBackend


def both_meters(backend: MlxBackend, prompt: list[int], new_tokens: int) -> tuple[float, float]:
    """Return our decode rate and mlx_lm's with its N/(N − 1) taken out, in tok/s."""
    stamps, last = [], None
    tokenizer: Any = TokenizerWrapper(backend.tokenizer, eos_token_ids=set())
    for last in stream_generate(backend.model, tokenizer, prompt, max_tokens=new_tokens):  # noqa: B007
        stamps.append(throughput.clock())
    assert last is not None  # noqa: S101 - max_tokens is at least 2
    ours = (len(stamps) - 1) / ((stamps[-1] - stamps[0]) / 1e9)
    return ours, without_bias(last.generation_tps, len(stamps))


def without_bias(tokens_per_s: float, count: int) -> float:
    """Take out of mlx_lm's rate the token whose time it does not count."""
    return tokens_per_s * (count - 1) / count
