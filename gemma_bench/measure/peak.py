"""The peak of live tensors, predicted from shapes alone: weights, cache, logits, and what a prefill has in flight."""

from dataclasses import dataclass

from gemma_bench.models.catalog import Size
from gemma_bench.models.generation import PREFILL_TOKENS

_ROOM_STEP_TOKENS = 256
"""mlx_lm's caches reserve room in steps of this many tokens."""

_MLX_IN_FLIGHT_RATIO = 1.5
"""MLX begins work ahead and frees behind; found on its CPU build with the tiny model (within 5 %), never on Metal."""


@dataclass(frozen=True)
class Load:
    """What is read and written, and the bytes of one value of activations and cache."""

    size: Size
    weights_bytes: int
    value_bytes: int
    prompt_tokens: int
    new_tokens: int
    batch_size: int = 1


@dataclass(frozen=True)
class Peak:
    """The predicted peaks of live tensors by phase."""

    load_bytes: int
    prefill_bytes: int
    decode_bytes: int

    @property
    def bytes(self) -> int:
        """The largest of them."""
        return max(self.load_bytes, self.prefill_bytes, self.decode_bytes)


def predicted_peak(library: str, load: Load, *, scores_are_kept: bool = False) -> Peak:
    """Predict the peaks of loading, of a prefill in pieces of 2,048 tokens, and of decoding after it.

    Loading is predicted for weights in the files' own type. `scores_are_kept` adds one matrix of attention scores per
    head, which MLX's CPU build computes in memory and fused kernels do not.
    """
    in_prefill, after_prefill, after_decode = _cache_bytes(library, load)
    logits = load.batch_size * load.size.vocab_size * load.value_bytes
    joined = _joined_bytes(library, load)
    if library == "torch":
        decode = max(after_prefill + joined + logits, after_decode + 2 * logits)
    else:
        decode = after_decode + joined + 2 * logits
    return Peak(
        load_bytes=load.weights_bytes,
        prefill_bytes=load.weights_bytes + in_prefill + max(_in_flight(library, load, scores_are_kept), logits),
        decode_bytes=load.weights_bytes + decode,
    )


def _joined_bytes(library: str, load: Load) -> int:
    """Return what one layer holds twice.

    MLX joins old and empty room where its cache grows; torch joins old and new keys at every step, and is at its
    peak in the first layer, a local one, when all others still hold the whole prefill.
    """
    one_token = 2 * load.size.num_key_value_heads * load.size.head_dim * load.batch_size * load.value_bytes
    if library == "torch":
        return one_token * (min(load.prompt_tokens, load.size.sliding_window) + 1)
    grows = _room(load.prompt_tokens + load.new_tokens - 1) > _room(load.prompt_tokens)
    return one_token * (_room(load.prompt_tokens) + _ROOM_STEP_TOKENS) if grows else 0


def _in_flight(library: str, load: Load, scores_are_kept: bool) -> int:
    """Return what a layer's feed-forward holds at once, where a prefill peaks, and the masks.

    Per token: residual and norm (4 d), rotations of both kinds of layers (4 · head width), and activated gate, up and
    their product (3 f).
    """
    size, tokens = load.size, min(load.prompt_tokens, PREFILL_TOKENS)
    per_token = 4 * size.hidden_size + 4 * size.head_dim + 3 * size.intermediate_size
    held = load.batch_size * tokens * per_token * load.value_bytes
    scores = load.batch_size * size.num_attention_heads * tokens**2 * load.value_bytes if scores_are_kept else 0
    ratio = _MLX_IN_FLIGHT_RATIO if library == "mlx" else 1
    return round(ratio * held) + scores + tokens**2


def _cache_bytes(library: str, load: Load) -> tuple[int, int, int]:
    """Return the most bytes of keys and values within the prefill, right after it, and at the end.

    Local layers hold the whole last piece behind their window until the first step cuts them.
    """
    size, prompt, total = load.size, load.prompt_tokens, load.prompt_tokens + load.new_tokens - 1
    first, later = min(prompt, PREFILL_TOKENS), max(0, prompt - PREFILL_TOKENS)
    last = (prompt - 1) % PREFILL_TOKENS + 1
    behind = size.sliding_window - 1
    most = max(first, behind + min(later, PREFILL_TOKENS)) if later else first
    kept, global_prompt, global_total = min(total, size.sliding_window), prompt, total
    if library == "mlx":
        global_prompt, global_total = _room(prompt), _room(total)
        kept = min(size.sliding_window, prompt + _ROOM_STEP_TOKENS) if total > prompt else prompt
    return (
        _held(load, global_prompt, most),
        _held(load, global_prompt, behind + last if later else last),
        _held(load, global_total, kept),
    )


def _room(tokens: int) -> int:
    return -(-tokens // _ROOM_STEP_TOKENS) * _ROOM_STEP_TOKENS


def _held(load: Load, global_tokens: int, local_tokens: int) -> int:
    return load.size.kv_cache_bytes(
        global_tokens, load.value_bytes, batch_size=load.batch_size, kept_tokens=local_tokens
    )
