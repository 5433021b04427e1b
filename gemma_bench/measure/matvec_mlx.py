"""The same products with MLX's kernels: vectorised on Metal, not on its CPU build, where the order reverses."""

from collections.abc import Callable
from itertools import cycle

import mlx.core as mx

from gemma_bench.measure.bandwidth import buffer_bytes
from gemma_bench.measure.matvec import GROUP_SIZE, SHAPE_12B, Product

_BITS = 4


def mlx_products(shape: tuple[int, int] = SHAPE_12B, copies_bytes: int | None = None) -> tuple[Product, Product]:
    """Return MLX's products in bf16 and in 4 bits, each call on the next copy; on Metal never run so far."""
    mx.random.seed(0)
    matrix = mx.random.normal(shape).astype(mx.bfloat16)
    vector = mx.ones((1, shape[1]), dtype=mx.bfloat16)
    packed = mx.quantize(matrix, group_size=GROUP_SIZE, bits=_BITS)
    room = copies_bytes or buffer_bytes()
    plain = cycle([(copy,) for (copy,) in _copies((matrix,), room)])
    small = cycle(_copies(packed, room))

    def four() -> mx.array:
        weights, scales, biases = next(small)
        return mx.quantized_matmul(vector, weights, scales, biases, transpose=True, group_size=GROUP_SIZE, bits=_BITS)

    return (
        Product("bf16", matrix.nbytes, _waited(lambda: vector @ next(plain)[0].T)),
        Product("4-bit", sum(part.nbytes for part in packed), _waited(four)),
    )


def _waited(lazy: Callable[[], mx.array]) -> Callable[[], object]:
    def run() -> mx.array:
        product = lazy()
        mx.eval(product)
        mx.synchronize()
        return product

    return run


def _copies(parts: tuple[mx.array, ...], room_bytes: int) -> list[tuple[mx.array, ...]]:
    size_bytes = sum(part.nbytes for part in parts)
    copies = [tuple(part + 0 for part in parts) for _ in range(max(1, -(-room_bytes // size_bytes)))]
    mx.eval(copies)
    return copies
