"""Gemma 3 in torch from MLX's quantised folders, on the CPU: 4- and 8-bit products, a short forward, a ring cache."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file
from torch import Tensor, nn

from gemma_bench.core.errors import BadInputError, UnavailableError
from gemma_bench.models.backend import Masks
from gemma_bench.models.catalog import Size
from gemma_bench.models.decoder import Decoder, DecoderWeights, LayerWeights, MaskTensors
from gemma_bench.models.folder import ModelFolder
from gemma_bench.models.headers import weight_files
from gemma_bench.models.inputs import check_masks, cut_to_kept, token_array
from gemma_bench.models.packed import SERVED_BITS, WORD_BITS, Packed, Stacked
from gemma_bench.models.ring_cache import RingCache
from gemma_bench.models.step import Step, can_step
from gemma_bench.models.tokenizer import load_tokenizer


class QuantisedTorchBackend:
    """A quantised Gemma 3 in torch; see `Backend` for what its methods promise."""

    name = "torch"
    device = "cpu"

    def __init__(self, folder: ModelFolder, device: str | None = None, precision: str | None = None) -> None:
        """Load a folder of 4- or 8-bit matrices on the CPU, in the one precision that it has."""
        if device not in (None, "cpu"):
            raise UnavailableError(device or "", f"torch runs quantised folders on cpu only, got device {device!r}")
        if precision not in (None, folder.precision):
            raise BadInputError(
                f"{folder.path.name} is quantised and runs in {folder.precision} only, got {precision!r}"
            )
        self.precision, self.size, self.folder = folder.precision, folder.size, folder
        self.tokenizer = load_tokenizer(folder.path)
        self.model = QuantisedGemma(*read_packed(folder), folder.size)

    @torch.inference_mode()
    def logits(
        self,
        tokens: Sequence[Sequence[int]],
        *,
        masks: Masks | None = None,
        cache: RingCache | None = None,
        last_only: bool = False,
    ) -> Float[Tensor, "batch position vocab"]:
        """Return logits, reading on from the cache and growing it."""
        cache = self.new_cache() if cache is None else cache
        ids = token_array(tokens, self.size, cache.read_tokens)
        given = None if masks is None else self._mask_tensors(masks, ids.shape[1], cache.read_tokens)
        return self.model.read(torch.from_numpy(ids), cache, given, last_only=last_only)

    def _mask_tensors(self, masks: Masks, query_tokens: int, read_tokens: int) -> dict[str, Tensor]:
        check_masks(masks, query_tokens, read_tokens)
        kept = min(read_tokens, self.size.sliding_window - 1)
        sliding = cut_to_kept(masks.sliding_attention, kept + query_tokens)
        return {"full_attention": _tensor(masks.full_attention), "sliding_attention": _tensor(sliding)}

    def new_cache(self) -> RingCache:
        """Return an empty cache."""
        return RingCache(self.size)

    def read_tokens(self, cache: RingCache) -> int:
        """Return how many tokens a cache has read."""
        return cache.read_tokens

    def cache_bytes(self, cache: RingCache) -> int:
        """Return the bytes of the keys and values that a cache holds (bfloat16), not of the room that it has made."""
        return cache.held_bytes()

    def kept_tokens(self, context_tokens: int) -> int:
        """Return min(context, window)."""
        return min(context_tokens, self.size.sliding_window)

    def weight_bytes(self) -> int:
        """Return the bytes of all matrices as the kernel reads them, and of the norms.

        The head's matrix counts once; the embedding's rows are looked up in it, or in the file's layout where the
        kernel has another.
        """
        return sum(buffer.nbytes for buffer in self.model.buffers())

    def numpy(self, array: Tensor) -> Float[np.ndarray, "*shape"]:
        """Return a tensor in float32."""
        values: np.ndarray = array.detach().float().numpy()
        return values

    def synchronize(self) -> None:
        """Do nothing: the CPU is never behind."""

    def peak_memory_bytes(self) -> int | None:
        """Return `None`: the CPU keeps no peak."""
        return None

    def reset_peak_memory(self) -> None:
        """Do nothing: there is no peak."""


class QuantisedGemma(nn.Module):
    """The packed matrices and norms of a Gemma 3, and the decoder over them."""

    def __init__(self, matrices: dict[str, Packed], vectors: Mapping[str, Tensor], size: Size) -> None:
        """Lay out all matrices for the kernels, those that read the same input joined; `matrices` is emptied."""
        super().__init__()
        self._matrices, self._vectors = matrices, vectors
        self.projections = nn.ModuleDict()
        embedding = self._matrix("model.embed_tokens")
        layers = [self._layer(f"model.layers.{index}", size) for index in range(size.num_hidden_layers)]
        head = self._stacked("head", [embedding])
        norm = self._norm("model.norm")
        self.decoder = Decoder(size, DecoderWeights(embedding.rows, layers, norm, head, torch.bfloat16))
        self.step = Step(self.decoder) if can_step(self.decoder) else None
        del self._matrices, self._vectors

    def read(
        self, ids: Int[Tensor, "batch position"], cache: RingCache, masks: MaskTensors | None, *, last_only: bool
    ) -> Float[Tensor, "batch position vocab"]:
        """Read on, a single token by the short way where there is one; see `Decoder.forward`."""
        if self.step is not None and masks is None and ids.shape == (1, 1):
            return self.step(ids, cache)
        return self.decoder.forward(ids, cache, masks, last_only=last_only)

    def _layer(self, stem: str, size: Size) -> LayerWeights:
        attention, mlp = f"{stem}.self_attn", f"{stem}.mlp"
        query, key = self._norm(f"{attention}.q_norm"), self._norm(f"{attention}.k_norm")
        counts = (size.num_attention_heads, size.num_key_value_heads)
        norms = ("input", "post_attention", "pre_feedforward", "post_feedforward")
        return LayerWeights(
            query_key_value=self._projection(f"{attention}.q_proj", f"{attention}.k_proj", f"{attention}.v_proj"),
            output=self._projection(f"{attention}.o_proj"),
            gate_up=self._projection(f"{mlp}.gate_proj", f"{mlp}.up_proj"),
            down=self._projection(f"{mlp}.down_proj"),
            query_key_norm=torch.cat((query.expand(counts[0], 1, -1), key.expand(counts[1], 1, -1))),
            norms=[self._norm(f"{stem}.{name}_layernorm") for name in norms],
        )

    def _projection(self, *stems: str) -> Stacked:
        return self._stacked(stems[0].replace(".", "_"), [self._matrix(stem) for stem in stems])

    def _stacked(self, name: str, matrices: Sequence[Packed]) -> Stacked:
        stacked = Stacked(matrices)
        self.projections[name] = stacked
        return stacked

    def _matrix(self, stem: str) -> Packed:
        """Hand a matrix over: where it is laid out anew, its first layout is not kept."""
        return self._matrices.pop(stem)

    def _norm(self, stem: str) -> Tensor:
        weight = 1.0 + self._vectors[stem].float()
        self.register_buffer(stem.replace(".", "_"), weight)
        return weight


def read_packed(folder: ModelFolder) -> tuple[dict[str, Packed], dict[str, Tensor]]:
    """Map a quantised folder's files and return matrices and norms by their names without `.weight`.

    Raises `BadInputError` where a matrix has bits that torch's kernels do not serve.
    """
    stored: dict[str, Tensor] = {}
    for file in weight_files(folder.path):
        stored |= load_file(file)
    matrices, vectors = {}, {}
    for name, shape in folder.size.parameter_shapes().items():
        stem = name.removesuffix(".weight")
        if len(shape) == 1:
            vectors[stem] = stored[name]
            continue
        bits = stored[name].shape[1] * WORD_BITS // shape[1]
        if bits not in SERVED_BITS:
            raise BadInputError(
                f"torch serves matrices of {' or '.join(map(str, SERVED_BITS))} bits, {stem} of {folder.path.name} "
                f"has {bits}: load it with backend mlx"
            )
        matrices[stem] = Packed(stored[name], stored[f"{stem}.scales"], stored[f"{stem}.biases"], bits)
    return matrices, vectors


def _tensor(mask: Bool[np.ndarray, "query key"]) -> Bool[Tensor, "query key"]:
    return torch.from_numpy(np.ascontiguousarray(mask))
