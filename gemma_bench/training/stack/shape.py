"""What a stack is made of: one shape for all its models, and the tensors that a model of that shape has."""

from collections.abc import Callable
from dataclasses import dataclass
from math import log2, prod, sqrt

import torch
from torch import Tensor

from gemma_bench.core.errors import BadInputError, unknown

_LEAST_SYMBOLS = 2


@dataclass(frozen=True)
class Shape:
    """A tiny transformer: `style` gemma3 or gpt2, `length` positions, `groups` keys and values for `heads` queries."""

    style: str
    symbols: int
    length: int
    width: int
    layers: int
    heads: int
    groups: int
    head_width: int
    hidden: int
    rope_base: float = 10_000.0
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        if self.style not in TENSORS:
            raise unknown("style", self.style, TENSORS)
        if self.symbols < _LEAST_SYMBOLS:
            raise BadInputError(f"symbols must be at least {_LEAST_SYMBOLS}, got {self.symbols}")
        for name in ("length", "width", "layers", "heads", "groups", "head_width", "hidden"):
            if getattr(self, name) < 1:
                raise BadInputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.heads % self.groups:
            raise BadInputError(f"heads must be a multiple of groups, got {self.heads} and {self.groups}")
        if self.style == "gpt2" and (self.groups != self.heads or self.heads * self.head_width != self.width):
            raise BadInputError(f"gpt2 needs groups = heads and heads × head_width = width = {self.width}")
        if self.style == "gemma3" and self.head_width % 2:
            raise BadInputError(f"head_width must be even to be rotated, got {self.head_width}")

    @property
    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Name every tensor of a model with its shape, in the order in which they lie in memory."""
        return TENSORS[self.style](self)

    @property
    def parameter_count(self) -> int:
        """Count everything that is trained, the tied embedding once."""
        return sum(prod(size) for size in self.tensors.values())

    def sequences(self, bits_per_parameter: float) -> int:
        """Return how many random sequences hold so many bits of data for each parameter."""
        return round(bits_per_parameter * self.parameter_count / (self.length * log2(self.symbols)))


def gemma3(width: int, layers: int, *, symbols: int, length: int, hidden: int, heads: int = 2) -> Shape:
    """Describe a Gemma 3 whose heads share the width and have their own keys and values."""
    return Shape("gemma3", symbols, length, width, layers, heads, heads, width // heads, hidden)


def gpt2(width: int, layers: int, *, symbols: int, length: int, heads: int) -> Shape:
    """Describe a GPT-2: hidden layers four times as wide, V·d + S·d + L·(12d² + 13d) + 2d parameters."""
    return Shape("gpt2", symbols, length, width, layers, heads, heads, width // heads, 4 * width, epsilon=1e-5)


def _gemma3_tensors(shape: Shape) -> dict[str, tuple[int, ...]]:
    width, head_width = shape.width, shape.head_width
    found: dict[str, tuple[int, ...]] = {"embedding": (shape.symbols, width)}
    for layer in range(shape.layers):
        found |= {
            f"{layer}.attention_norm": (width,),
            f"{layer}.qkv": ((shape.heads + 2 * shape.groups) * head_width, width),
            f"{layer}.query_norm": (head_width,),
            f"{layer}.key_norm": (head_width,),
            f"{layer}.out": (width, shape.heads * head_width),
            f"{layer}.attention_post_norm": (width,),
            f"{layer}.mlp_norm": (width,),
            f"{layer}.gate_up": (2 * shape.hidden, width),
            f"{layer}.down": (width, shape.hidden),
            f"{layer}.mlp_post_norm": (width,),
        }
    return found | {"norm": (width,)}


def _gpt2_tensors(shape: Shape) -> dict[str, tuple[int, ...]]:
    width = shape.width
    found: dict[str, tuple[int, ...]] = {"embedding": (shape.symbols, width), "positions": (shape.length, width)}
    for layer in range(shape.layers):
        for name, size in {
            "attention_norm": (width,),
            "qkv": (3 * width, width),
            "out": (width, width),
            "mlp_norm": (width,),
            "up": (shape.hidden, width),
            "down": (width, shape.hidden),
        }.items():
            found |= {f"{layer}.{name}": size, f"{layer}.{name}_bias": size[:1]}
    return found | {"norm": (width,), "norm_bias": (width,)}


TENSORS: dict[str, Callable[[Shape], dict[str, tuple[int, ...]]]] = {"gemma3": _gemma3_tensors, "gpt2": _gpt2_tensors}


def random_weights(shape: Shape, seed: int) -> Tensor:
    """Draw one model's weights as one row: matrices keep the variance of what they read, norms start as no change.

    What is added to the residual stream is smaller by √(2·layers), as in GPT-2. Embeddings have the variance of a
    matrix, 1/width: with the tied head that makes the first logits of order 1.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for name, size in shape.tensors.items():
        if len(size) == 1:
            starts_at_one = shape.style == "gpt2" and not name.endswith("_bias")
            rows.append(torch.full(size, float(starts_at_one)))
            continue
        deviation = 1 / sqrt(size[1])
        if name.endswith((".out", ".down")):
            deviation /= sqrt(2 * shape.layers)
        rows.append(torch.randn(size, generator=generator) * deviation)
    return torch.cat([row.reshape(-1) for row in rows])
