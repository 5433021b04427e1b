"""A training step's peak by arithmetic: what each layer keeps for its backward pass, as transformers computes it.

Counted from the code of `Gemma3DecoderLayer` and `LlamaDecoderLayer` with PEFT's adapters, per token and layer; `v` is
the bytes of a value, d the hidden width, f the feed-forward width, q the width of all queries:

- a norm computes in float32: 4 of its width for its input, as much for the normalised input where its weight is trained
  (v in Llama), v for its result where a matrix reads it;
- attention keeps queries, keys and values (repeated to all heads) and its result: 4·v·q, and a mask of v per token;
- the feed-forward keeps gate, up, the activated gate and their product: 4·v·f;
- adapters in another precision than the weights keep a float32 copy of each input,
  4·(5·d + q + f), instead of v·(2·d + f).

Autocast keeps a copy in 16 bits of every weight that is trained, and without checkpointing of the others too.
"""

from dataclasses import dataclass, replace
from functools import cache

import torch

from gemma_bench.measure.rank_watch import kept_bytes
from gemma_bench.measure.tensor_tracker import model_tensors
from gemma_bench.models.catalog import Size
from gemma_bench.models.llama import LlamaSize
from gemma_bench.training import adapters
from gemma_bench.training.head_loss import CHUNK_ROWS
from gemma_bench.training.plan import Plan
from gemma_bench.training.step import Training, prepared_model

_FLOAT_BYTES, _HALF_BYTES = 4, 2
_LOSS_COPIES = 3
"""Float32 copies of the logits when the loss's backward pass begins: log-probabilities and two gradients."""

_LARGEST_COPIES = 2
"""Copies of the largest trained matrix at the end: parts of a tied gradient, or what AdamW computes with."""


@dataclass(frozen=True)
class ClosedForm:
    """Bytes of weights, gradients and optimizer states (exact), and of all else where it is most (estimated)."""

    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    at_loss_bytes: int
    at_update_bytes: int

    @property
    def states_bytes(self) -> int:
        """What there is whatever the batch."""
        return self.weights_bytes + self.gradients_bytes + self.optimizer_bytes

    @property
    def peak_bytes(self) -> int:
        """The larger of two moments: all activations and the loss, or all gradients."""
        held = self.weights_bytes + self.optimizer_bytes
        return held + max(self.at_loss_bytes, self.gradients_bytes + self.at_update_bytes)


def closed_form(plan: Plan) -> ClosedForm:
    """Compute the peak of a plan's step; a method's own memory between forward pass and update is left out."""
    facts = _facts(replace(plan, batch_size=1, length=2, checkpointing=False, gradient_accumulation=1, read_steps=0))
    tokens, value = plan.batch_size * plan.read_length, _value_bytes(plan)
    loss_rows = min(tokens, CHUNK_ROWS) if plan.loss_in_pieces else tokens
    kept = value * plan.size.hidden_size if plan.checkpointing else _layer_bytes(plan, facts)
    logits = _LOSS_COPIES * _FLOAT_BYTES * plan.size.vocab_size
    earlier = facts.trained_bytes if plan.gradient_accumulation > 1 else 0
    lowered = facts.trained_bytes if plan.checkpointing else facts.weights_bytes
    halves = lowered * _HALF_BYTES // _FLOAT_BYTES if plan.autocast else 0
    copies = facts.trained_bytes if plan.update.foreach else _LARGEST_COPIES * facts.largest_bytes
    one_layer = _layer_bytes(plan, facts) * tokens if plan.checkpointing else 0
    return ClosedForm(
        weights_bytes=facts.weights_bytes,
        gradients_bytes=facts.trained_bytes,
        optimizer_bytes=facts.states_bytes + kept_bytes(plan),
        at_loss_bytes=earlier + halves + tokens * plan.size.num_hidden_layers * kept + loss_rows * logits,
        at_update_bytes=max(one_layer, copies),
    )


@dataclass(frozen=True)
class _Facts:
    """What the shapes of a prepared model say."""

    weights_bytes: int
    trained_bytes: int
    states_bytes: int
    largest_bytes: int
    rank: int
    adapter_bytes: int | None
    norms_are_trained: bool


@cache
def _facts(plan: Plan) -> _Facts:
    """Read the shapes once for all batches and lengths."""
    training = Training(prepared_model(plan, "meta"), plan)
    model, trained = training.prepared.model, training.trained
    factors = [adapters.adapter_parameters(layer)[1] for layer in adapters.layers(model).values()]
    trained_bytes = sum(parameter.nbytes for parameter in trained)
    return _Facts(
        weights_bytes=sum(tensor.nbytes for tensor in model_tensors(model)),
        trained_bytes=trained_bytes,
        states_bytes=2 * trained_bytes if isinstance(training.optimizer, torch.optim.Adam) else 0,
        largest_bytes=max(parameter.nbytes for parameter in trained),
        rank=factors[0].shape[0] if factors else 0,
        adapter_bytes=factors[0].element_size() if factors else None,
        norms_are_trained=any(parameter.dim() == 1 for parameter in trained),
    )


def _value_bytes(plan: Plan) -> int:
    return _HALF_BYTES if plan.autocast or plan.dtype == "bfloat16" else _FLOAT_BYTES


def _layer_bytes(plan: Plan, facts: _Facts) -> int:
    """Return what a layer keeps of a token."""
    size, value = plan.size, _value_bytes(plan)
    d, f = size.hidden_size, size.intermediate_size
    q, kv, norms, is_gemma = _widths(size)
    normalised = (_FLOAT_BYTES if is_gemma else value) if facts.norms_are_trained else 0
    normed = (_FLOAT_BYTES + normalised) * (norms * d + (q + kv if is_gemma else 0))
    kept = (
        normed
        + 2 * value * d
        + 4 * value * (q + f)
        + value * plan.read_length
        + _FLOAT_BYTES * size.num_attention_heads
    )
    if facts.adapter_bytes is None:
        return kept
    copies = 0
    if facts.adapter_bytes != value:
        copies = facts.adapter_bytes * (5 * d + q + f) - value * (2 * d + f)
    return kept + copies + 7 * facts.rank * facts.adapter_bytes


def _widths(size: Size | LlamaSize) -> tuple[int, int, int, bool]:
    """Return the widths of queries and of keys, the norms of a layer, and whether queries and keys have theirs."""
    if isinstance(size, LlamaSize):
        return size.hidden_size, size.hidden_size, 2, False
    return size.num_attention_heads * size.head_dim, size.num_key_value_heads * size.head_dim, 4, True
