"""The five sizes of Gemma 3 and a tiny one: shapes and the arithmetic that follows from them, without any tensor."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from gemma_bench.core.errors import BadInputError, unknown

_SCALE_AND_BIAS_BITS = 32
"""MLX keeps one 16-bit scale and one 16-bit bias per group of quantised weights."""

_NORM_BITS = 16


class Size(BaseModel):
    """One size of Gemma 3; fields carry the names of Hugging Face's `Gemma3TextConfig`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    num_hidden_layers: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    query_pre_attn_scalar: int
    sliding_window: int
    sliding_window_pattern: int = 6
    max_position_embeddings: int
    rope_theta: float = 1_000_000.0
    rope_local_base_freq: float = 10_000.0
    rope_scaling_factor: float | None = None
    vocab_size: int = 262_144
    hub_id: str | None
    multimodal: bool

    @property
    def layer_types(self) -> tuple[str, ...]:
        """Every sixth layer is global; the first is local, so `5:1` is exact only where layers divide by six."""
        pattern, layers = self.sliding_window_pattern, range(self.num_hidden_layers)
        return tuple("sliding_attention" if (layer + 1) % pattern else "full_attention" for layer in layers)

    @property
    def embedding_parameter_count(self) -> int:
        """Return the parameters of the embedding, which is the output head too."""
        return self.vocab_size * self.hidden_size

    @property
    def parameter_count(self) -> int:
        """Return V·d + L·(2·d·h·hd + 2·d·kv·hd + 3·d·f + 4·d + 2·hd) + d, the tied head counted once."""
        d, hd = self.hidden_size, self.head_dim
        attention = 2 * d * hd * (self.num_attention_heads + self.num_key_value_heads) + 2 * hd
        layer = attention + 3 * d * self.intermediate_size + 4 * d
        return self.embedding_parameter_count + self.num_hidden_layers * layer + d

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return every tensor's shape under its Hugging Face name; the tied head has none of its own."""
        shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab_size, self.hidden_size)}
        for layer in range(self.num_hidden_layers):
            shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in self._layer_shapes()}
        return shapes | {"model.norm.weight": (self.hidden_size,)}

    def _layer_shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        d, f, hd = self.hidden_size, self.intermediate_size, self.head_dim
        queries, keys = self.num_attention_heads * hd, self.num_key_value_heads * hd
        yield "self_attn.q_proj", (queries, d)
        yield "self_attn.k_proj", (keys, d)
        yield "self_attn.v_proj", (keys, d)
        yield "self_attn.o_proj", (d, queries)
        yield "self_attn.q_norm", (hd,)
        yield "self_attn.k_norm", (hd,)
        yield "mlp.gate_proj", (f, d)
        yield "mlp.up_proj", (f, d)
        yield "mlp.down_proj", (d, f)
        for norm in ("input", "post_attention", "pre_feedforward", "post_feedforward"):
            yield f"{norm}_layernorm", (d,)

    def kv_cache_bytes(
        self, context_tokens: int, bytes_per_value: float, *, batch_size: int = 1, kept_tokens: int | None = None
    ) -> int:
        """Return the bytes of keys and values after `context_tokens`.

        A local layer holds min(context, window) tokens, unless `kept_tokens` says how many a library really keeps.
        """
        if context_tokens < 0:
            raise BadInputError(f"context must be at least 0 tokens, got {context_tokens}")
        local = min(context_tokens, self.sliding_window) if kept_tokens is None else kept_tokens
        global_layers = self.layer_types.count("full_attention")
        tokens = global_layers * context_tokens + (self.num_hidden_layers - global_layers) * local
        return round(tokens * batch_size * 2 * self.num_key_value_heads * self.head_dim * bytes_per_value)

    def weight_bytes(self, bits: float, group_size: int | None = None) -> int:
        """Return the bytes of all weights: plain at `bits` each, or quantised in groups as MLX stores them.

        Quantised matrices cost bits + 32/group per weight (a 16-bit scale and bias per group); norms stay 16 bit.
        """
        if group_size is None:
            return round(self.parameter_count * bits / 8)
        matrices = sum(rows * columns for rows, columns in self.matrix_shapes().values())
        norms = self.parameter_count - matrices
        return round((matrices * bits_per_weight(bits, group_size) + norms * _NORM_BITS) / 8)

    def matrix_shapes(self) -> dict[str, tuple[int, int]]:
        """Return the shapes of the tensors that quantisation and low-rank methods touch: all but the norms."""
        return {name: (shape[0], shape[1]) for name, shape in self.parameter_shapes().items() if len(shape) > 1}

    def config(self) -> dict[str, Any]:
        """Return config.json in the hub's classic form, which transformers and mlx_lm both read without help."""
        scaling = self.rope_scaling_factor
        return {
            "architectures": ["Gemma3ForCausalLM"],
            "model_type": "gemma3_text",
            **self.model_dump(exclude={"name", "hub_id", "multimodal", "rope_scaling_factor"}),
            "rope_scaling": None if scaling is None else {"factor": scaling, "rope_type": "linear"},
            "rms_norm_eps": 1e-6,
            "hidden_activation": "gelu_pytorch_tanh",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "attn_logit_softcapping": None,
            "final_logit_softcapping": None,
            "initializer_range": 0.02,
            "tie_word_embeddings": True,
            "use_cache": True,
            "pad_token_id": 0,
            "eos_token_id": 1,
            "bos_token_id": 2,
        }


def bits_per_weight(bits: float, group_size: int) -> float:
    """Return what one weight of a matrix costs, its share of the group's scale and bias included: 4.5 for 4 in 64."""
    return bits + _SCALE_AND_BIAS_BITS / group_size


def _released(name: str, hub_id: str, shape: tuple[int, ...], scalar: int, window: int, **more: Any) -> Size:
    layers, hidden, ffn, heads, kv_heads, head_dim = shape
    return Size(
        name=name,
        hub_id=hub_id,
        num_hidden_layers=layers,
        hidden_size=hidden,
        intermediate_size=ffn,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        query_pre_attn_scalar=scalar,
        sliding_window=window,
        **more,
    )


_SHORT: Mapping[str, Any] = {"max_position_embeddings": 32_768, "multimodal": False}
_LONG: Mapping[str, Any] = {"max_position_embeddings": 131_072, "rope_scaling_factor": 8.0, "multimodal": True}

# Source: transformers `models/gemma3/convert_gemma3_weights.py` (all five) and the Gemma 3 report, arXiv 2503.19786.
# Shape: layers, hidden, feed-forward, heads, key-value heads, head width. The text vocabulary is 262,144 everywhere;
# the hub's multimodal configs say 262,208, whose last 64 rows are image tokens.
SIZES: dict[str, Size] = {
    size.name: size
    for size in (
        _released("270m", "google/gemma-3-270m", (18, 640, 2048, 4, 1, 256), 256, 512, **_SHORT),
        _released("1b", "google/gemma-3-1b-pt", (26, 1152, 6912, 4, 1, 256), 256, 512, **_SHORT),
        _released("4b", "google/gemma-3-4b-pt", (34, 2560, 10_240, 8, 4, 256), 256, 1024, **_LONG),
        _released("12b", "google/gemma-3-12b-pt", (48, 3840, 15_360, 16, 8, 256), 256, 1024, **_LONG),
        _released("27b", "google/gemma-3-27b-pt", (62, 5376, 21_504, 32, 16, 128), 168, 1024, **_LONG),
    )
}

# Hidden width 64, because its square root is exact in bfloat16: MLX rounds the embedding's scale to bfloat16 whatever
# the precision, transformers in float32 does not, and the tiny model is where the two are compared to 1e-4.
# Vocabulary: 256 bytes after <pad> <eos> <bos> <unk> <start_of_turn> <end_of_turn>.
TINY = Size(
    name="tiny",
    num_hidden_layers=6,
    hidden_size=64,
    intermediate_size=128,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=32,
    query_pre_attn_scalar=32,
    sliding_window=8,
    max_position_embeddings=512,
    vocab_size=262,
    hub_id=None,
    multimodal=False,
)


def find(name: str) -> Size:
    """Return the size of that name: 270m, 1b, 4b, 12b, 27b or tiny."""
    sizes = SIZES | {TINY.name: TINY}
    if name not in sizes:
        raise unknown("model size", name, sizes)
    return sizes[name]
