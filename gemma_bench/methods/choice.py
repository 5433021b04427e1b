"""The training methods by their names, as the published recipes set them: ReLoRA trains embeddings and norms too."""

from collections.abc import Callable

from gemma_bench.core.errors import unknown
from gemma_bench.methods.rank_one import RankOne
from gemma_bench.methods.relora import ReLoRA
from gemma_bench.training.method import Full, Lora, Method

METHODS: dict[str, Callable[[int, bool], Method]] = {
    "full": lambda _, embeddings: Full(embeddings=embeddings),
    "lora": lambda rank, _: Lora(rank=rank),
    "relora": lambda rank, embeddings: ReLoRA(rank=rank, embeddings=embeddings),
    "rank1": lambda *_: RankOne(),
}
"""From a rank, which full training and rank-1 updates have no use for, and whether embeddings learn, to a method."""


def method_named(name: str, rank: int, *, embeddings: bool = True) -> Method:
    """Return a method by its name; an unknown one lists those there are. LoRA and rank-1 never train embeddings."""
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return METHODS[name](rank, embeddings)
