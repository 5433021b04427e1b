"""The training methods by their names, as the published recipes set them: ReLoRA trains embeddings and norms too."""

from collections.abc import Callable

from gemma_bench.core.errors import unknown
from gemma_bench.methods.rank_one import RankOne
from gemma_bench.methods.relora import ReLoRA
from gemma_bench.training.method import Full, Lora, Method

METHODS: dict[str, Callable[[int], Method]] = {
    "full": lambda _: Full(),
    "lora": lambda rank: Lora(rank=rank),
    "relora": lambda rank: ReLoRA(rank=rank, embeddings=True),
    "rank1": lambda _: RankOne(),
}
"""From a rank, which full training and rank-1 updates have no use for, to a method."""


def method_named(name: str, rank: int) -> Method:
    """Return a method by its name; an unknown one lists those there are."""
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return METHODS[name](rank)
