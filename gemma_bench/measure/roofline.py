"""What a forward pass over a block costs by the roofline of Set Block Decoding (arXiv 2509.04185, section 5).

A product of m×n and n×k takes the longer of moving its operands and computing it; attention likewise. With the widths
that the paper's code uses its table reproduces to the last digit; with those that it names, it does not.
"""

from dataclasses import dataclass

from gemma_bench.core.errors import BadInputError

_BANDWIDTH_BYTES_PER_S = 3.35 * 1024**4
_LINEAR_FLOP_PER_S = 1978e12
_ATTENTION_FLOP_PER_S = 989e12
_VALUE_BYTES = 1
"""An H100 in FP8, as the paper has it."""

_BLOCK_COUNT_OF_FIRST_PASS = 2


@dataclass(frozen=True)
class LayerShape:
    """The widths of one layer's products: a feed-forward of two matrices, queries and output, keys and values."""

    hidden: int
    feed_forward: int
    key_value: int
    head_count: int
    key_value_head_count: int
    head_dim: int


MENDED = LayerShape(4096, 4 * 4096, 8 * 128, 32, 8, 128)
"""The widths that the paper names: a feed-forward of 4·4096 and 8 key-value heads of 128."""

PRINTED = LayerShape(4096, 4096 * 4 * 4096, 32 * 8, 32, 8, 128)
"""What its printed code computes with: a feed-forward of 4096·(4·4096), keys and values of heads × key-value heads."""


def product_s(rows: int, inner: int, columns: int) -> float:
    """Return the seconds of one matrix product: the longer of moving its three matrices and multiplying."""
    moved = (rows * inner + inner * columns + rows * columns) * _VALUE_BYTES
    return max(moved / _BANDWIDTH_BYTES_PER_S, 2 * rows * inner * columns / _LINEAR_FLOP_PER_S)


def attention_s(shape: LayerShape, batch_size: int, block_tokens: int, kv_tokens: int) -> float:
    """Return the seconds of attention itself: queries and output, keys and values moved, two products computed."""
    queries = batch_size * block_tokens * shape.head_count * shape.head_dim
    keys = batch_size * kv_tokens * shape.key_value_head_count * shape.head_dim
    moved = 2 * (queries + keys) * _VALUE_BYTES
    return max(moved / _BANDWIDTH_BYTES_PER_S, 2 * 2 * queries * kv_tokens / _ATTENTION_FLOP_PER_S)


def pass_s(shape: LayerShape, batch_size: int, block_tokens: int, kv_tokens: int) -> float:
    """Return the seconds of one layer over a block of tokens of each sequence, `kv_tokens` in the cache."""
    rows, hidden, wide = batch_size * block_tokens, shape.hidden, shape.feed_forward
    feed_forward = product_s(rows, hidden, wide) + product_s(rows, wide, hidden)
    projections = 2 * product_s(rows, hidden, hidden) + 2 * product_s(rows, hidden, shape.key_value)
    return feed_forward + projections + attention_s(shape, batch_size, block_tokens, kv_tokens)


def slowdown(shape: LayerShape, batch_size: int, block_tokens: int, kv_tokens: int) -> float:
    """Return what a pass over a block costs in passes over one token."""
    return pass_s(shape, batch_size, block_tokens, kv_tokens) / pass_s(shape, batch_size, 1, kv_tokens)


def block_speedup(block_size: int, passes_per_block: float, one_s: float, block_s: float, double_s: float) -> float:
    """Return k·time(1) / (time(2k) + (l − 1)·time(k)): eq. 16, time saved by l passes for a block of k tokens.

    The first pass of a block reads the finished block before it too, hence its 2k tokens.
    """
    if passes_per_block < 1:
        raise BadInputError(f"passes per block must be at least 1, got {passes_per_block:g}")
    return block_size * one_s / (double_s + (passes_per_block - 1) * block_s)


def roofline_speedup(shape: LayerShape, batch_size: int, block_size: int, kv_tokens: int, saving: float) -> float:
    """Return eq. 16 with the roofline's own times, where `saving` times fewer passes are needed than tokens."""
    one, block, double = (
        pass_s(shape, batch_size, tokens, kv_tokens)
        for tokens in (1, block_size, _BLOCK_COUNT_OF_FIRST_PASS * block_size)
    )
    return block_speedup(block_size, block_size / saving, one, block, double)
