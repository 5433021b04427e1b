"""What decoding must cost: at batch size 1 every weight crosses the memory bus once per token."""

import numpy as np

BF16_BYTES = 2
FP32_BYTES = 4


def bandwidth_share_percent(bytes_per_token: float, tokens_per_s: float, bandwidth_bytes_per_s: float) -> float:
    """Return how much of a machine's memory bandwidth a decode rate needs."""
    return 100 * bytes_per_token * tokens_per_s / bandwidth_bytes_per_s


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
    (15.2e9, 0.62, 0.77),  # 27b in 4 bits: 35 tok/s, 65 %; 16 bits reached 77 % on an M4 Max
)
"""Bytes per token, lowest and highest share. Sources: Rapid-MLX community benchmarks, mlx-lm BENCHMARKS.md."""
