"""What is compared when training steps are timed: one model and batch, and the methods that take turns."""

from pydantic import BaseModel, ConfigDict

from gemma_bench.methods.choice import method_named
from gemma_bench.training.plan import Plan, trainable_size


class Case(BaseModel):
    """One model and batch, trained by several methods in turn; the first is what the others are compared with.

    Full training and ReLoRA train the embedding and the norms too, as the published recipe does, unless `embeddings` is
    false: LoRA never does.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    methods: tuple[str, ...]
    rank: int
    batch_size: int
    length: int
    dtype: str
    checkpointing: bool = False
    adapter_dtype: str | None = None
    exact_merges: bool = True
    embeddings: bool = True

    @property
    def name(self) -> str:
        """Name the case: `llama-1.3b 8×512 bfloat16, checkpointing`."""
        knob = ", checkpointing" if self.checkpointing else ""
        frozen = "" if self.embeddings else ", frozen embeddings"
        return f"{self.model} {self.batch_size}×{self.length} {self.dtype}{knob}{frozen}"

    def plan(self, method: str) -> Plan:
        """Return what one method trains."""
        knobs = self.model_dump(exclude={"model", "methods", "rank", "embeddings"})
        return Plan(trainable_size(self.model), method_named(method, self.rank, embeddings=self.embeddings), **knobs)
