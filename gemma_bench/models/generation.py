"""Text from a model, token by token: the plain loop that every faster way of decoding is compared with."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from gemma_bench.core.errors import BadInputError
from gemma_bench.models.backend import Array, Backend, Cache
from gemma_bench.models.catalog import Size
from gemma_bench.models.sampling import Greedy, Sampler

PREFILL_TOKENS = 2048
"""The prompt is read in pieces of this length, as mlx_lm does, so that long prompts need no quadratic room."""

_BROKEN = "\N{REPLACEMENT CHARACTER}"


def generate(
    backend: Backend,
    prompt_tokens: Sequence[int],
    max_tokens: int,
    sampler: Sampler | None = None,
    stop_tokens: Collection[int] = (),
) -> Iterator[int]:
    """Yield up to `max_tokens` new tokens (greedy without a sampler).

    Ends before a stop token, which is not yielded, and where the context is full. Raises `BadInputError` at once for an
    empty prompt, one longer than the context, or fewer than 1 token.
    """
    check_request(backend.size, prompt_tokens, max_tokens)
    return _generate(backend, list(prompt_tokens), max_tokens, sampler or Greedy(), frozenset(stop_tokens))


def check_request(size: Size, prompt_tokens: Sequence[int], max_tokens: int) -> None:
    """Refuse a prompt or a length that this model cannot serve."""
    if len(prompt_tokens) == 0:
        raise BadInputError("prompt must have at least 1 token, got 0")
    if len(prompt_tokens) > size.max_position_embeddings:
        raise BadInputError(
            f"prompt has {len(prompt_tokens)} tokens, the model's context is {size.max_position_embeddings}"
        )
    if max_tokens < 1:
        raise BadInputError(f"max tokens must be at least 1, got {max_tokens}")


def _generate(
    backend: Backend, prompt: list[int], max_tokens: int, sampler: Sampler, stop_tokens: frozenset[int]
) -> Iterator[int]:
    choose, cache = sampler.start(), backend.new_cache()
    logits = prefill(backend, [prompt], cache)
    for position in range(len(prompt), len(prompt) + max_tokens):
        token = choose(backend.numpy(logits)[0, -1])
        if token in stop_tokens:
            return
        yield token
        if position == backend.size.max_position_embeddings or position + 1 == len(prompt) + max_tokens:
            return
        logits = backend.logits([[token]], cache=cache, last_only=True)


def prefill(backend: Backend, prompts: Sequence[Sequence[int]], cache: Cache) -> Array:
    """Read prompts of one length piece by piece and return the last position's logits `[batch, 1, vocab]`."""
    logits = None
    for start in range(0, len(prompts[0]), PREFILL_TOKENS):
        pieces = [prompt[start : start + PREFILL_TOKENS] for prompt in prompts]
        logits = backend.logits(pieces, cache=cache, last_only=True)
    return logits


def stream_text(tokenizer: Any, tokens: Iterable[int]) -> Iterator[str]:
    """Yield text as soon as it is whole: a character whose bytes are spread over tokens comes with the last of them.

    Special tokens are left out, and so are the bytes of a character that the last token leaves unfinished.
    """
    pending: list[int] = []
    for token in tokens:
        pending.append(token)
        text = tokenizer.decode(pending, skip_special_tokens=True)
        if text and not text.endswith(_BROKEN):
            yield text
            pending.clear()
    rest = tokenizer.decode(pending, skip_special_tokens=True).rstrip(_BROKEN) if pending else ""
    if rest:
        yield rest
