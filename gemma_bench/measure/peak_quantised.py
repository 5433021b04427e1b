"""The peak of live tensors of a quantised model in torch on the CPU, from shapes alone, with our products in C.

Activations are float32 and keys and values bfloat16, in rooms that do not depend on what is in them (`ring_cache`).
"""

from gemma_bench.measure.peak import Load, Peak
from gemma_bench.models.generation import PREFILL_TOKENS
from gemma_bench.models.ring_cache import FIRST_ROOM

_FLOAT, _HALF = 4, 2


def quantised_peak(load: Load) -> Peak:
    """Predict the peaks of loading, of a prefill in pieces of 2,048 tokens, and of decoding after it."""
    size, context = load.size, load.prompt_tokens + load.new_tokens - 1
    logits = load.batch_size * size.vocab_size * _FLOAT
    joined = 2 * size.intermediate_size * size.hidden_size * load.weights_bytes // size.parameter_count
    before = _slots(load.prompt_tokens)
    grown = _room_bytes(load, _slots(context)) if _slots(context) > before else 0
    return Peak(
        load_bytes=load.weights_bytes + joined,
        prefill_bytes=load.weights_bytes + _rooms_bytes(load, before) + max(_in_flight(load), logits),
        decode_bytes=load.weights_bytes
        + _rooms_bytes(load, _slots(context))
        + max(grown, 2 * logits + _step_bytes(load, context)),
    )


def _in_flight(load: Load) -> int:
    """Return what a layer holds in its last product of a prefill, what its attention left behind, and the masks.

    Per token: residual and result (2 d); gate, up and their product (3 f); that product in two halves of 16 bits for
    the kernel (2 f); queries, keys and values before and after their norms, and what they gathered.
    """
    size, tokens = load.size, min(load.prompt_tokens, PREFILL_TOKENS)
    queries, keys = size.num_attention_heads * size.head_dim, size.num_key_value_heads * size.head_dim
    floats = 2 * size.hidden_size + 5 * size.intermediate_size + (queries + 2 * keys) + queries
    halves = (queries + keys) + 2 * keys
    rotations = 2 * 2 * size.head_dim * _FLOAT * tokens
    masks = tokens * (load.prompt_tokens + min(load.prompt_tokens, size.sliding_window - 1 + tokens))
    return load.batch_size * tokens * (floats * _FLOAT + halves * _HALF) + rotations + masks


def _step_bytes(load: Load, context_tokens: int) -> int:
    """Return the scratch room of one token's way through all layers in C."""
    size = load.size
    head_count = size.num_attention_heads + 2 * size.num_key_value_heads
    widest = max(head_count * size.head_dim, 2 * size.intermediate_size, size.hidden_size)
    return _FLOAT * (2 * size.hidden_size + 4 * widest + size.num_attention_heads * context_tokens)


def _slots(tokens: int) -> int:
    """Return the slots of a global layer's room, which doubles."""
    slots = FIRST_ROOM
    while slots < tokens:
        slots = max(tokens, 2 * slots)
    return slots


def _room_bytes(load: Load, slots: int) -> int:
    size = load.size
    return 2 * load.batch_size * size.num_key_value_heads * slots * size.head_dim * _HALF


def _rooms_bytes(load: Load, global_slots: int) -> int:
    slots = (
        load.size.sliding_window if kind == "sliding_attention" else global_slots for kind in load.size.layer_types
    )
    return sum(_room_bytes(load, one) for one in slots)
