"""What decoding must cost: at batch size 1 every weight crosses the memory bus once per token."""

import numpy as np

from gemma_bench.models.catalog import Size

BF16_BYTES = 2


def bandwidth_share_percent(bytes_per_token: float, tokens_per_s: float, bandwidth_bytes_per_s: float) -> float:
    """Return how much of a machine's memory bandwidth a decode rate needs."""
    return 100 * bytes_per_token * tokens_per_s / bandwidth_bytes_per_s


def step_bytes(size: Size, weights_bytes: int, context_tokens: int, batch_size: int, value_bytes: int) -> int:
    """Return what one decoding step must read: every weight once, and each sequence's keys and values."""
    return weights_bytes + size.kv_cache_bytes(context_tokens, value_bytes, batch_size=batch_size)


def ceiling_tokens_per_s(bytes_per_token: float, bandwidth_bytes_per_s: float) -> float:
    """Return the decode rate that no implementation can beat at batch size 1."""
    return bandwidth_bytes_per_s / bytes_per_token


def expected_tokens_per_s(bytes_per_token: float, bandwidth_bytes_per_s: float) -> tuple[float, float, float]:
    """Return the lowest and highest rate to be expected of a good implementation, and the ceiling.

    Shares of the bandwidth that were reported for MLX, by the bytes that a token moves (M3 Ultra and M4 Max, batch size
    1): small models are bound by launches, large ones by memory. Between two sizes the share runs with the logarithm.
    """
    ceiling = ceiling_tokens_per_s(bytes_per_token, bandwidth_bytes_per_s)
    sizes = np.log([reported_bytes for reported_bytes, _, _ in _REPORTED_SHARES])
    low, high = (
        float(np.interp(np.log(bytes_per_token), sizes, [shares[end] for shares in _REPORTED_SHARES])) for end in (1, 2)
    )
    return low * ceiling, high * ceiling, ceiling


_REPORTED_SHARES = (
    (0.56e9, 0.15, 0.20),  # 1b in 4 bits: 258 tok/s, 18 %
    (2.18e9, 0.36, 0.43),  # 4b in 4 bits: 141 to 153 tok/s, 38 to 41 %
    (6.62e9, 0.55, 0.67),  # 12b in 4 bits: 69 to 72 tok/s, 58 %; 67 % on an M4 Max
    (8.05e9, 0.56, 0.77),  # a 4B model in 16 bits: 77 % on an M4 Max
    (15.2e9, 0.62, 0.77),  # 27b in 4 bits: 35 tok/s, 65 %
)
"""Bytes per token, lowest and highest share. Sources: Rapid-MLX community benchmarks, mlx-lm BENCHMARKS.md."""
