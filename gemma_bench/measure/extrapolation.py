"""What a real size would hold if capacity kept growing with parameters as it does in small models."""

from math import log2

from gemma_bench.core.errors import BadInputError
from gemma_bench.models.catalog import Size

_WEIGHT_BITS = 32
"""No weight can hold more than the bits that it is stored in; the largest format here is float32."""


def extrapolate(size: Size, bits_per_parameter: float) -> dict[str, float]:
    """Return the bits at a slope, and how many random tokens of the vocabulary they would be."""
    if not 0 < bits_per_parameter <= _WEIGHT_BITS:
        raise BadInputError(f"bits per parameter must be above 0 and at most {_WEIGHT_BITS}, got {bits_per_parameter}")
    bits = bits_per_parameter * size.parameter_count
    return {
        "slope_bits_per_parameter": bits_per_parameter,
        "capacity_bits": bits,
        "random_tokens": bits / log2(size.vocab_size),
    }
