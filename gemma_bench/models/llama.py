"""The Llama shapes that ReLoRA was published on, from 60M to 1.3B: no weights, only what they would weigh."""

from typing import Any

from pydantic import BaseModel, ConfigDict


class LlamaSize(BaseModel):
    """One size; fields carry the names of Hugging Face's `LlamaConfig`. The head is not tied."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    num_hidden_layers: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    vocab_size: int = 32_100
    max_position_embeddings: int = 1024

    @property
    def parameter_count(self) -> int:
        """Return 2·V·d + L·(4·d² + 3·d·f + 2·d) + d."""
        d = self.hidden_size
        layer = 4 * d * d + 3 * d * self.intermediate_size + 2 * d
        return 2 * self.vocab_size * d + self.num_hidden_layers * layer + d

    def projection_shapes(self) -> list[tuple[int, int]]:
        """Return the shapes of one layer's seven matrices."""
        d, f = self.hidden_size, self.intermediate_size
        return [(d, d)] * 4 + [(f, d), (f, d), (d, f)]

    def config(self) -> dict[str, Any]:
        """Return what `LlamaConfig` takes."""
        return {**self.model_dump(exclude={"name"}), "rms_norm_eps": 1e-6, "tie_word_embeddings": False}


# Source: Guitaricet/relora, configs/llama_60m.json … llama_1b.json. Layers, hidden, feed-forward, heads.
LLAMAS: dict[str, LlamaSize] = {
    name: LlamaSize(
        name=name,
        num_hidden_layers=layers,
        hidden_size=hidden,
        intermediate_size=feed_forward,
        num_attention_heads=heads,
    )
    for name, (layers, hidden, feed_forward, heads) in {
        "llama-60m": (8, 512, 1376, 8),
        "llama-130m": (12, 768, 2048, 12),
        "llama-250m": (24, 768, 2560, 16),
        "llama-350m": (24, 1024, 2736, 16),
        "llama-1.3b": (24, 2048, 5461, 32),
    }.items()
}
