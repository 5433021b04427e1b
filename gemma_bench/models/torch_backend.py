"""Gemma 3 in torch: transformers' `Gemma3ForCausalLM`, unchanged."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import DynamicCache, Gemma3ForCausalLM, Gemma3TextConfig
from transformers.cache_utils import DynamicLayer
from transformers.utils import logging

from gemma_bench.core.errors import BadInputError, unknown
from gemma_bench.models.backend import Masks
from gemma_bench.models.catalog import Size
from gemma_bench.models.folder import ModelFolder
from gemma_bench.models.inputs import check_masks, cut_to_kept, device_here, token_array
from gemma_bench.models.tokenizer import load_tokenizer

DEVICES = ("cpu", "mps", "cuda")

PRECISIONS: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class TorchBackend:
    """Gemma 3 loaded in torch; see `Backend` for what its methods promise."""

    name = "torch"

    def __init__(self, folder: ModelFolder, device: str | None = None, precision: str | None = None) -> None:
        """Load a folder on a device (the best one here) in a precision (that of its files)."""
        if folder.bits is not None:
            raise BadInputError(
                f"torch cannot read {folder.path.name}, which MLX quantised to {folder.bits} bits: "
                f"load it with backend mlx, or load {folder.size.name}"
            )
        self.device = best_device() if device is None else checked_device(device)
        self.precision = folder.dtype if precision is None else precision
        if self.precision not in PRECISIONS:
            raise unknown("precision", self.precision, PRECISIONS)
        self.size, self.folder = folder.size, folder
        self.tokenizer = load_tokenizer(folder.path)
        self.model: Any = load_model(folder, PRECISIONS[self.precision]).to(self.device)

    @torch.inference_mode()
    def logits(
        self,
        tokens: Sequence[Sequence[int]],
        *,
        masks: Masks | None = None,
        cache: DynamicCache | None = None,
        last_only: bool = False,
    ) -> Float[Tensor, "batch position vocab"]:
        """Return logits, reading on from the cache and growing it."""
        ids = token_array(tokens, self.size, 0 if cache is None else self.read_tokens(cache))
        output = self.model(
            input_ids=torch.from_numpy(ids).to(self.device),
            attention_mask=None if masks is None else self._mask_tensors(masks, ids.shape[1], cache),
            past_key_values=cache,
            use_cache=cache is not None,
            logits_to_keep=1 if last_only else 0,
        )
        logits: Tensor = output.logits
        return logits

    def _mask_tensors(self, masks: Masks, query_tokens: int, cache: DynamicCache | None) -> dict[str, Tensor]:
        """Return the masks by layer type, as Gemma 3's forward takes them in place of its own."""
        read_tokens = 0 if cache is None else self.read_tokens(cache)
        check_masks(masks, query_tokens, read_tokens)
        kept = min(read_tokens, self.size.sliding_window - 1)
        return {
            "full_attention": self._mask_tensor(masks.full_attention),
            "sliding_attention": self._mask_tensor(cut_to_kept(masks.sliding_attention, kept + query_tokens)),
        }

    def _mask_tensor(self, mask: Bool[np.ndarray, "query key"]) -> Bool[Tensor, "1 1 query key"]:
        return torch.from_numpy(np.ascontiguousarray(mask))[None, None].to(self.device)

    def new_cache(self) -> DynamicCache:
        """Return an empty cache of transformers' own kind."""
        return DynamicCache(config=self.model.config)

    def read_tokens(self, cache: DynamicCache) -> int:
        """Return how many tokens a cache has read."""
        return int(cache.get_seq_length())

    def cache_bytes(self, cache: DynamicCache) -> int:
        """Return the bytes of the keys and values that a cache holds.

        After a long prefill a local layer's tensors are views into the whole prefill, whose memory is freed at the next
        step; the bytes counted are those of the views.
        """
        layers = [layer for layer in cache.layers if isinstance(layer, DynamicLayer) and layer.is_initialized]
        return sum(kept.nbytes for layer in layers for kept in (layer.keys, layer.values) if kept is not None)

    def kept_tokens(self, context_tokens: int) -> int:
        """Return min(context, window − 1): transformers drops the token that the next step can no longer see."""
        return min(context_tokens, self.size.sliding_window - 1)

    def weight_bytes(self) -> int:
        """Return the bytes of all parameters; `parameters()` names the tied head once."""
        return sum(parameter.nbytes for parameter in self.model.parameters())

    def numpy(self, array: Tensor) -> Float[np.ndarray, "*shape"]:
        """Wait for a tensor and return it in float32."""
        values: np.ndarray = array.detach().float().cpu().numpy()
        return values

    def synchronize(self) -> None:
        """Wait for the device; the CPU is never behind."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        elif self.device == "mps":  # never run until a record from such a machine exists
            torch.mps.synchronize()

    def peak_memory_bytes(self) -> int | None:
        """Return CUDA's peak; neither the CPU nor MPS keeps one."""
        return torch.cuda.max_memory_allocated() if self.device == "cuda" else None

    def reset_peak_memory(self) -> None:
        """Start a new peak on CUDA; elsewhere there is none to start."""
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()


def available_devices() -> list[str]:
    """Return the devices of this machine, the slowest first."""
    # The mps branch was never run until a record from such a machine exists.
    here = {"cpu": True, "mps": torch.backends.mps.is_available(), "cuda": torch.cuda.is_available()}
    return [device for device in DEVICES if here[device]]


def best_device() -> str:
    """Return the fastest device of this machine."""
    return available_devices()[-1]


def checked_device(device: str) -> str:
    """Refuse a device that torch does not know or this machine does not have."""
    return device_here(device, DEVICES, available_devices())


def load_model(folder: ModelFolder, dtype: torch.dtype) -> Any:
    """Load the weights once, straight from the mapped safetensors into tensors of the wanted type."""
    config = Gemma3TextConfig(**folder.size.config())
    with quiet_transformers():
        model: Any = Gemma3ForCausalLM.from_pretrained(
            folder.path,
            config=config,
            dtype=dtype,
            attn_implementation="sdpa",
            use_safetensors=True,
            local_files_only=True,
        )
    return model.eval()


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers from drawing bars and writing remarks: a library's progress is its caller's to show."""
    drawn, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if drawn:
            logging.enable_progress_bar()


def meta_model(config: dict[str, Any]) -> Gemma3ForCausalLM:
    """Build a model without memory: shapes and counts only."""
    with torch.device("meta"):
        return Gemma3ForCausalLM(Gemma3TextConfig(**config))


def module_parameter_count(size: Size) -> int:
    """Count the parameters of transformers' modules, a tied head once."""
    return sum(parameter.numel() for parameter in meta_model(size.config()).parameters())


def library_layer_types(size: Size) -> tuple[str, ...]:
    """Return what kind transformers takes each layer for."""
    return tuple(Gemma3TextConfig(**size.config()).layer_types or ())
