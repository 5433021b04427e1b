"""What decoding must cost: at batch size 1 every weight crosses the memory bus once per token."""

BF16_BYTES = 2
FP32_BYTES = 4


def bandwidth_share_percent(bytes_per_token: float, tokens_per_s: float, bandwidth_bytes_per_s: float) -> float:
    """Return how much of a machine's memory bandwidth a decode rate needs."""
    return 100 * bytes_per_token * tokens_per_s / bandwidth_bytes_per_s


def ceiling_tokens_per_s(bytes_per_token: float, bandwidth_bytes_per_s: float) -> float:
    """Return the decode rate that no implementation can beat at batch size 1."""
    return bandwidth_bytes_per_s / bytes_per_token
