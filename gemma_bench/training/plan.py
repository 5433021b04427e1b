"""What is trained and how, as far as memory and time depend on it."""

from dataclasses import dataclass
from typing import Any, Self

from gemma_bench.core.errors import BadInputError, unknown
from gemma_bench.models.catalog import SIZES, TINY, Size
from gemma_bench.models.llama import LLAMAS, LlamaSize
from gemma_bench.training.method import Method
from gemma_bench.training.settings import Settings

PRECISIONS = ("bfloat16", "float32")


@dataclass(frozen=True)
class Update:
    """How AdamW goes about an update: in one fused pass, or step by step for all tensors at once, or for each alone."""

    fused: bool = True
    foreach: bool = False


@dataclass(frozen=True)
class Plan:
    """One way to train one model on rows of `length` tokens.

    `dtype` is that of the weights; with `autocast` float32 weights compute in bfloat16. Adapters are as the method
    makes them unless `adapter_dtype` says otherwise. With `exact_merges` 16-bit weights that a method merges into have
    their float32 remainders beside them, two bytes more per weight; the code of ReLoRA's paper had none. With
    `loss_in_pieces` the head is applied piece by piece where logits would fill the memory, as our trainer does and
    transformers does not. The default update needs no memory of its own. `read_steps` are those of a run
    whose merges are kept to its end, so that their rank can be read.
    """

    size: Size | LlamaSize
    method: Method
    batch_size: int = 1
    length: int = 1024
    dtype: str = "bfloat16"
    checkpointing: bool = False
    autocast: bool = False
    adapter_dtype: str | None = None
    exact_merges: bool = True
    loss_in_pieces: bool = False
    gradient_accumulation: int = 1
    update: Update = Update()
    read_steps: int = 0

    def __post_init__(self) -> None:
        """Refuse what no run could be; a rank is refused where adapters are attached."""
        if self.batch_size < 1:
            raise BadInputError(f"batch size must be at least 1, got {self.batch_size}")
        longest = self.size.max_position_embeddings
        if not 1 < self.length <= longest:
            raise BadInputError(f"length must be between 2 and {longest} for {self.size.name}, got {self.length}")
        for precision in filter(None, (self.dtype, self.adapter_dtype)):
            if precision not in PRECISIONS:
                raise unknown("training precision", precision, PRECISIONS)

    @classmethod
    def as_trained(
        cls, size: Size | LlamaSize, method: Method, *, dtype: str, device: str = "cpu", **knobs: Any
    ) -> Self:
        """Return the plan of a run as `train` makes it: weights that an optimizer owns are float32, `dtype` or not."""
        if dtype not in PRECISIONS:
            raise unknown("training precision", dtype, PRECISIONS)
        return cls(
            size,
            method,
            dtype="float32" if method.trains_weights else dtype,
            autocast=dtype == "bfloat16" and method.trains_weights,
            loss_in_pieces=True,
            update=Update(fused=False, foreach=device == "cuda"),
            **knobs,
        )

    @property
    def settings(self) -> Settings:
        """What the method is prepared with."""
        return Settings(batch_size=self.batch_size, checkpointing=self.checkpointing)

    @property
    def read_length(self) -> int:
        """The positions that a forward pass reads of a row."""
        return self.length * self.method.copies_count


def trainable_size(name: str) -> Size | LlamaSize:
    """Return a Gemma 3 of the catalog, or one of the Llama shapes that ReLoRA was published on."""
    sizes: dict[str, Size | LlamaSize] = {TINY.name: TINY, **SIZES, **LLAMAS}
    plain = name.removesuffix("-it")
    if plain not in sizes:
        raise unknown("model", name, sizes)
    return sizes[plain]
