"""Gemma 3 in MLX: mlx_lm's `gemma3_text`, unchanged."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import mlx.core as mx
import numpy as np
from jaxtyping import Bool, Float
from mlx.utils import tree_flatten
from mlx_lm.models.cache import KVCache, RotatingKVCache
from mlx_lm.models.gemma3_text import Model, ModelArgs
from mlx_lm.utils import load_model

from gemma_bench.core.errors import BadInputError
from gemma_bench.models.backend import Masks
from gemma_bench.models.catalog import Size
from gemma_bench.models.folder import ModelFolder
from gemma_bench.models.inputs import check_masks, cut_to_kept, device_here, token_array
from gemma_bench.models.tokenizer import load_tokenizer

DEVICES = ("cpu", "metal", "cuda")

PRECISIONS = {"float32": mx.float32, "bfloat16": mx.bfloat16, "float16": mx.float16}

Cache = list[KVCache | RotatingKVCache]


class MlxBackend:
    """Gemma 3 loaded in MLX; see `Backend` for what its methods promise."""

    name = "mlx"

    def __init__(self, folder: ModelFolder, device: str | None = None, precision: str | None = None) -> None:
        """Load a folder on a device (the best one here) in a precision (that of its files).

        A quantised folder has one precision, its own (`4bit`); a plain one is cast to any of three.
        """
        self.device = available_devices()[-1] if device is None else checked_device(device)
        self.stream = mx.cpu if self.device == "cpu" else mx.gpu
        self.precision = checked_precision(folder, precision)
        self.size, self.folder = folder.size, folder
        self.tokenizer = load_tokenizer(folder.path)
        with mx.stream(self.stream):
            self.model, _ = load_model(folder.path, lazy=True, model_config=folder.size.config())
            if folder.bits is None and self.precision != folder.dtype:
                self.model.set_dtype(PRECISIONS[self.precision])
            mx.eval(self.model.parameters())

    def logits(
        self,
        tokens: Sequence[Sequence[int]],
        *,
        masks: Masks | None = None,
        cache: Cache | None = None,
        last_only: bool = False,
    ) -> mx.array:
        """Return logits, reading on from the cache and growing it; their computation has begun when this returns."""
        ids = token_array(tokens, self.size, 0 if cache is None else self.read_tokens(cache))
        with mx.stream(self.stream):
            inputs = mx.array(ids.astype(np.int32))
            hidden = self.model.model(inputs, cache) if masks is None else self._masked(inputs, masks, cache)
            if last_only:
                hidden = hidden[:, -1:]
            logits: mx.array = self.model.model.embed_tokens.as_linear(hidden)
            mx.async_eval(logits)  # type: ignore[no-untyped-call, unused-ignore]
        return logits

    def _masked(self, inputs: mx.array, masks: Masks, cache: Cache | None) -> mx.array:
        queries = inputs.shape[1]
        read_tokens = 0 if cache is None else self.read_tokens(cache)
        check_masks(masks, queries, read_tokens)
        sliding = self._in_slots(masks.sliding_attention, queries, cache)
        tensors = {"full_attention": mx.array(masks.full_attention), "sliding_attention": mx.array(sliding)}
        return self.masked_hidden(inputs, tensors, cache or [None] * self.size.num_hidden_layers)

    def masked_hidden(self, inputs: mx.array, masks: Mapping[str, mx.array], caches: Sequence[Any]) -> mx.array:
        """Run `Gemma3Model.__call__` of mlx_lm with the given masks in place of its own; nothing else differs."""
        model = self.model.model
        hidden = model.embed_tokens(inputs)
        hidden *= mx.array(self.size.hidden_size**0.5, mx.bfloat16).astype(hidden.dtype)
        for layer, kind, layer_cache in zip(model.layers, self.size.layer_types, caches, strict=True):
            hidden = layer(hidden, masks[kind], layer_cache)
        normed: mx.array = model.norm(hidden)
        return normed

    def _in_slots(
        self, mask: Bool[np.ndarray, "query key"], query_tokens: int, cache: Cache | None
    ) -> Bool[np.ndarray, "query slot"]:
        """Order a local mask's columns as `RotatingKVCache` will hand out the keys.

        Several tokens are appended to the last window − 1 in order; a single one overwrites a full ring's oldest slot.
        """
        if cache is None:
            return mask
        ring: Any = cache[0]
        window = self.size.sliding_window
        kept = min(ring.offset, window - 1)
        cut = cut_to_kept(mask, kept + query_tokens)
        if query_tokens > 1 or ring.offset < window:
            return cut
        newest_slot = 0 if ring._idx >= window else ring._idx
        return np.roll(cut, newest_slot + 1, axis=1)

    def new_cache(self) -> Cache:
        """Return an empty cache of mlx_lm's own kind."""
        cache: Cache = self.model.make_cache()
        return cache

    def read_tokens(self, cache: Cache) -> int:
        """Return how many tokens a cache has read."""
        return int(cache[0].offset)

    def cache_bytes(self, cache: Cache) -> int:
        """Return the bytes of the keys and values that a cache holds.

        Reserved slots (mlx_lm grows by 256) do not count. After a prefill of several tokens a local layer holds all of
        them, more than its window, until the next step; they are really there and they do count.
        """
        return sum(_held_bytes(layer) for layer in cache)

    def kept_tokens(self, context_tokens: int) -> int:
        """Return min(context, window)."""
        return min(context_tokens, self.size.sliding_window)

    def weight_bytes(self) -> int:
        """Return the bytes of all parameters; the tied head has none of its own."""
        named: Any = tree_flatten(self.model.parameters())
        return sum(array.nbytes for _, array in named)

    def numpy(self, array: mx.array) -> Float[np.ndarray, "*shape"]:
        """Wait for an array and return it in float32."""
        with mx.stream(self.stream):
            values: np.ndarray = np.array(array.astype(mx.float32))
        return values

    def synchronize(self) -> None:
        """Wait for everything that `logits` has begun."""
        mx.synchronize(mx.default_stream(self.stream))

    def peak_memory_bytes(self) -> int | None:
        """Return the peak of MLX's allocator, shared by all that MLX does in this process."""
        return int(mx.get_peak_memory())

    def reset_peak_memory(self) -> None:
        """Start a new peak."""
        mx.reset_peak_memory()


def available_devices() -> list[str]:
    """Return the devices of this machine, the slowest first."""
    # The metal and cuda branches were never run until a record from such a machine exists.
    here = {"cpu": True, "metal": mx.metal.is_available(), "cuda": mx.cuda.is_available()}
    return [device for device in DEVICES if here[device]]


def checked_device(device: str) -> str:
    """Refuse a device that MLX does not know or this machine does not have."""
    return device_here(device, DEVICES, available_devices())


def checked_precision(folder: ModelFolder, precision: str | None) -> str:
    """Return the precision to run in: the folder's own, or the one asked for if the folder can be cast to it."""
    if precision is None or precision == folder.precision:
        return folder.precision
    if folder.bits is not None:
        raise BadInputError(f"{folder.path.name} is quantised and runs in {folder.precision} only, got {precision!r}")
    if precision not in PRECISIONS:
        raise BadInputError(
            f"unknown precision {precision!r}, expected one of {', '.join(PRECISIONS)} "
            f"(fewer bits need a conversion: `gemma-bench convert {folder.size.name} --bits 4`)"
        )
    return precision


def _held_bytes(layer: Any) -> int:
    if layer.keys is None:
        return 0
    slots = layer.keys.shape[2]
    return int((layer.keys.nbytes + layer.values.nbytes) // slots * min(layer.offset, slots))


def library_layer_types(size: Size) -> tuple[str, ...]:
    """Return what kind mlx_lm takes each layer for; the layers are built lazily and cost no memory."""
    layers = Model(ModelArgs.from_dict(size.config())).layers
    return tuple("sliding_attention" if layer.self_attn.is_sliding else "full_attention" for layer in layers)


def library_version() -> str:
    """Name the version and the devices that MLX sees."""
    return f"mlx {version('mlx')} on {', '.join(available_devices())}"
