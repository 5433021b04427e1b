"""Set block decoding: several tokens per forward pass, from a model that was trained to fill in masked ones.

Source: Set Block Decoding, arXiv 2509.04185v1, algorithm 3. A block of mask tokens is read behind the finished text;
each pass fixes some of them, as its sampler says (`block_samplers`). The first pass of the next block reads the
finished one once more, causally, so that the cache holds what a plain causal prefill would.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int

from gemma_bench.core.errors import BadInputError
from gemma_bench.methods.block_samplers import BlockSampler, EntropyBounded
from gemma_bench.methods.set_block_passes import BlockCache, Ids, Passes, Readout
from gemma_bench.models.generation import PREFILL_TOKENS
from gemma_bench.models.sampling import Greedy, Sampler


@dataclass(frozen=True)
class SetBlock:
    """How to decode: the most tokens of a block, and which of them a pass fixes.

    Blocks of 1 token are autoregressive decoding: each is the one that the last finished token predicts.
    """

    block_size: int = 16
    sampler: BlockSampler = field(default_factory=EntropyBounded)

    def __post_init__(self) -> None:
        """Refuse an empty block."""
        if self.block_size < 1:
            raise BadInputError(f"block size must be at least 1 token, got {self.block_size}")


@dataclass(frozen=True)
class Fixed:
    """A token that a pass fixed: the row, the position in its answer, the token."""

    row: int
    position: int
    token: int


@dataclass(frozen=True)
class Pass:
    """One forward pass: how many tokens each row read, what was fixed, and the most tokens that each answer can have.

    An answer ends before its first stop token: `lengths` shrink when one is fixed, and what lies beyond is void.
    """

    width_tokens: int
    fixed: tuple[Fixed, ...]
    lengths: tuple[int, ...]


def decode(
    passes: Passes,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    method: SetBlock | None = None,
    choice: Sampler | None = None,
    stop_tokens: Collection[int] = (),
    cache: BlockCache | None = None,
) -> Iterator[Pass]:
    """Yield the passes that answer a batch of prompts of any lengths; see `set_block_trace` for what to make of them.

    Each answer has up to `max_tokens` tokens (greedy without `choice`) and ends before a stop token or where the
    context is full. Each row begins `choice` anew, so that its answer does not depend on the other prompts. With a
    `cache`, prompts of one length go on behind what it has kept. Raises `BadInputError` at once for an empty or too
    long prompt, unknown ids or the mask token in one, no tokens to write, or a cache of another kind, model or batch or
    too small a one.
    """
    method = method or SetBlock()
    _check(passes, prompts, max_tokens, method, cache)
    longest = max(map(len, prompts))
    padding = np.array([longest - len(prompt) for prompt in prompts])
    rows = np.array([[*[0] * (longest - len(prompt)), *prompt] for prompt in prompts])
    room = _longest_text(passes, method) - longest - (0 if cache is None else cache.kept_tokens)
    limit = min(max_tokens, room)
    if cache is None:
        cache = passes.new_cache(padding, longest + limit)
    writing = _Writing(passes, cache, rows, limit, method, choice or Greedy(), frozenset(stop_tokens))
    return writing.passes_until_done()


class _Writing:
    """Answers while they are written."""

    def __init__(
        self,
        passes: Passes,
        cache: BlockCache,
        prompts: Ids,
        limit: int,
        method: SetBlock,
        choice: Sampler,
        stop_tokens: frozenset[int],
    ) -> None:
        self.passes, self.cache, self.method, self.stop_tokens = passes, cache, method, stop_tokens
        self.choose = [choice.start() for _ in prompts]
        self.prompts, self.limit = prompts, limit
        self.answers = np.full((len(prompts), limit), passes.mask_token)
        self.is_open = np.ones(self.answers.shape, dtype=bool)
        self.lengths = [limit] * len(prompts)

    def passes_until_done(self) -> Iterator[Pass]:
        """Write block after block."""
        finished = self._prompt_but_for_its_end()
        one_pass = self._autoregressive_pass if self.method.block_size == 1 else self._pass
        for start in range(0, self.limit, self.method.block_size):
            block = slice(start, min(start + self.method.block_size, self.limit))
            while self.is_open[:, block].any():
                yield one_pass(finished, block)
                finished = finished[:, :0]
            if not self.is_open.any():
                return
            finished = self.answers[:, block]

    def _prompt_but_for_its_end(self) -> Ids:
        """Read a long prompt piece by piece and return the last piece, which the first block's first pass reads.

        For one token at a time that is the last token alone.
        """
        last = self.prompts.shape[1] - 1
        if self.method.block_size > 1:
            last -= last % PREFILL_TOKENS
        nothing = self.prompts[:, :0]
        for start in range(0, last, PREFILL_TOKENS):
            piece = self.prompts[:, start : min(start + PREFILL_TOKENS, last)]
            self.passes.read(self.cache, piece, nothing, nothing > 0)
        return self.prompts[:, last:]

    def _pass(self, finished: Ids, block: slice) -> Pass:
        is_masked = self.is_open[:, block]
        rows, offsets = np.nonzero(is_masked)
        readout = self.passes.read(self.cache, finished, self.answers[:, block], is_masked)
        chosen = self._chosen(readout, rows)
        logits = readout.logits(chosen)
        fixed = tuple(
            Fixed(int(rows[index]), int(block.start + offsets[index]), self.choose[rows[index]](own))
            for index, own in zip(chosen, logits, strict=True)
        )
        for one in fixed:
            self._fix(one)
        return Pass(finished.shape[1] + is_masked.shape[1], fixed, tuple(self.lengths))

    def _autoregressive_pass(self, finished: Ids, block: slice) -> Pass:
        """Fix the token that the last finished one predicts, without a mask."""
        logits = self.passes.logits(self.cache, finished, finished[:, :0])[:, -1]
        rows = np.flatnonzero(self.is_open[:, block.start])
        fixed = tuple(Fixed(int(row), block.start, self.choose[row](logits[row])) for row in rows)
        for one in fixed:
            self._fix(one)
        return Pass(finished.shape[1], fixed, tuple(self.lengths))

    def _chosen(self, readout: Readout, rows: Int[np.ndarray, " masked"]) -> Int[np.ndarray, " chosen"]:
        """Let the sampler choose in each row for itself."""
        of_rows = []
        for row in np.unique(rows):
            own = np.flatnonzero(rows == row)
            fix = self.method.sampler.fix
            of_rows.append(own[fix(readout.entropies_nats[own], readout.confidences[own])])
        return np.concatenate(of_rows)

    def _fix(self, one: Fixed) -> None:
        """Write a token down; nothing behind a stop token needs writing any more."""
        self.answers[one.row, one.position] = one.token
        self.is_open[one.row, one.position] = False
        if one.token in self.stop_tokens and one.position < self.lengths[one.row]:
            self.lengths[one.row] = one.position
            self.is_open[one.row, one.position :] = False


def _longest_text(passes: Passes, method: SetBlock) -> int:
    """Return the most tokens of prompt and answer: a block is read whole, a token after the last one read is free."""
    return passes.context_tokens + (method.block_size == 1)


def _check(
    passes: Passes, prompts: Sequence[Sequence[int]], max_tokens: int, method: SetBlock, cache: BlockCache | None
) -> None:
    if not prompts or min(map(len, prompts)) == 0:
        raise BadInputError("prompts must have at least 1 token each, got an empty one")
    if max_tokens < 1:
        raise BadInputError(f"max tokens must be at least 1, got {max_tokens}")
    if cache is not None:
        _check_cache(passes, prompts, max_tokens, cache)
    longest = max(map(len, prompts)) + (0 if cache is None else cache.kept_tokens)
    if longest >= _longest_text(passes, method):
        raise BadInputError(
            f"prompt has {longest} tokens, the model's context of {passes.context_tokens} leaves no room for an answer"
        )
    ids = {token for prompt in prompts for token in prompt}
    if min(ids) < 0 or max(ids) >= passes.vocabulary_size:
        wrong = min(ids) if min(ids) < 0 else max(ids)
        raise BadInputError(f"token ids must be between 0 and {passes.vocabulary_size - 1}, got {wrong}")
    if passes.mask_token in ids:
        raise BadInputError(f"prompt contains token {passes.mask_token}, which stands for hidden tokens: leave it out")


def _check_cache(passes: Passes, prompts: Sequence[Sequence[int]], max_tokens: int, cache: BlockCache) -> None:
    if not isinstance(cache, BlockCache):
        raise BadInputError(f"cache must be one that the passes' `new_cache` made, got {type(cache).__name__}")
    if cache.model is not passes.model:
        raise BadInputError("the cache holds keys and values of another model: begin a new one")
    lengths = sorted({len(prompt) for prompt in prompts})
    text = cache.kept_tokens + lengths[-1]
    if len(prompts) != len(cache.padding) or len(lengths) != 1:
        raise BadInputError(
            f"prompts must be {len(cache.padding)} rows of one length behind this cache, got {len(prompts)} rows of "
            f"{lengths} tokens"
        )
    if text + max_tokens > cache.room_tokens:
        raise BadInputError(
            f"the cache has room for {cache.room_tokens} tokens, {text} of text and {max_tokens} new ones need more"
        )
