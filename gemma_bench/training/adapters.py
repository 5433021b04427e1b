"""The one home of W + s·B·A on PEFT's LoRA layers: attach, merge, restart, and what a model was changed by since.

PEFT's own merge sets a flag under which A and B leave the forward pass and get no gradient; its `merge_and_unload`
makes new parameters, which an optimizer does not know. Here weights and factors change in place and stay the same.
"""

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.tuners.trainable_tokens import TrainableTokensLayer
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Generator, Tensor, nn

from gemma_bench.core.errors import BadInputError, DamagedFileError, unknown
from gemma_bench.core.files import new_folder, read_text
from gemma_bench.models.saving import system_errors
from gemma_bench.training.plain_lora import require_plain_lora
from gemma_bench.training.split_weights import add_product

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The seven matrices of every layer: the targets of ReLoRA's paper."""

ADAPTER = "default"
_PEFT_PREFIX = "base_model.model."
_BASE = "base_model.json"


def attach(
    model: nn.Module,
    rank: int,
    *,
    alpha: float | None = None,
    targets: tuple[str, ...] = PROJECTIONS,
    dropout: float = 0.0,
    seed: int = 0,
    dtype: torch.dtype | None = None,
    token: int | None = None,
) -> PeftModel:
    """Put adapters beside a model's matrices and freeze the rest; alpha (2·rank by default) over rank is the scale.

    With a `token` its row of the embedding is trained too, and of a head that is tied to it. Factors are float32
    beside 16-bit weights unless `dtype` says otherwise. Works on the meta device too. Raises `BadInputError` for an
    unknown target, for one that is tied to another matrix, and for a rank that no target has.
    """
    _check_targets(model, targets)
    smallest = min(min(linear.weight.shape) for _, linear in _linears(model, targets))
    if not 1 <= rank <= smallest:
        raise BadInputError(f"rank must be between 1 and {smallest}, got {rank}")
    scale: Any = 2 * rank if alpha is None else alpha
    config = LoraConfig(
        r=rank,
        lora_alpha=scale,
        target_modules=list(targets),
        lora_dropout=dropout,
        trainable_token_indices=None if token is None else [token],
        task_type="CAUSAL_LM",
    )
    plain: Any = model
    on_meta = next(model.parameters()).device.type == "meta"
    with torch.random.fork_rng(devices=[]), _without_old_name():
        adapted: PeftModel = get_peft_model(plain, config, low_cpu_mem_usage=on_meta)
    generator = Generator().manual_seed(seed)
    for layer in layers(adapted).values():
        if dtype is not None:
            layer.lora_A.to(dtype)
            layer.lora_B.to(dtype)
        restart(layer, generator)
    return adapted


@contextmanager
def _without_old_name() -> Iterator[None]:
    """Keep transformers from warning that PEFT asks for checkpointing by a name of earlier releases."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield


def _linears(model: nn.Module, names: tuple[str, ...]) -> Iterator[tuple[str, nn.Linear]]:
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear) and path.rpartition(".")[2] in names:
            yield path, module


def _check_targets(model: nn.Module, targets: tuple[str, ...]) -> None:
    tied = _tied_modules(model)
    there = sorted({path.rpartition(".")[2] for path, part in model.named_modules() if isinstance(part, nn.Linear)})
    for target in targets:
        if target in tied:
            raise BadInputError(
                f"{target} cannot have an adapter: it shares its matrix with {' and '.join(sorted(tied - {target}))}, "
                "and a merge would change both; train the embedding itself or leave it frozen"
            )
        if target not in there:
            raise unknown("target", target, (name for name in there if name not in tied))
    if not targets:
        raise BadInputError(f"targets must be at least one of {', '.join(there)}, got none")


def _tied_modules(model: nn.Module) -> set[str]:
    """Return the names of the modules that share their matrix with another."""
    owners: dict[int, set[str]] = {}
    for path, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), set()).add(path.split(".")[-2])
    return {name for names in owners.values() if len(names) > 1 for name in names}


def layers(model: nn.Module) -> dict[str, LoraLayer]:
    """Return a model's adapted layers by the name of their matrix in the plain model."""
    found = ((name, part) for name, part in model.named_modules() if isinstance(part, LoraLayer))
    return {name.removeprefix(_PEFT_PREFIX): part for name, part in found}


def token_rows(model: nn.Module) -> dict[str, TrainableTokensLayer]:
    """Return what trains a token's row, by the name of its embedding in the plain model; a tied head shares the row."""
    found = ((name, part) for name, part in model.named_modules() if isinstance(part, TrainableTokensLayer))
    return {
        name.removeprefix(_PEFT_PREFIX).removesuffix(".token_adapter"): part
        for name, part in found
        if part.tied_adapter is None
    }


def adapter_parameters(layer: LoraLayer) -> tuple[nn.Parameter, nn.Parameter]:
    """Return a layer's trainable factors B [out, rank] and A [rank, in]."""
    b, a = cast(nn.Linear, layer.lora_B[ADAPTER]), cast(nn.Linear, layer.lora_A[ADAPTER])
    return cast(nn.Parameter, b.weight), cast(nn.Parameter, a.weight)


def factors(layer: LoraLayer) -> tuple[Float[Tensor, "out rank"], Float[Tensor, "rank in"]]:
    """Return a layer's s·B and A: their product is what the adapter adds to the weight now."""
    b, a = adapter_parameters(layer)
    return b.detach() * layer.scaling[ADAPTER], a.detach()


def merge(layer: LoraLayer) -> None:
    """Add s·B·A to a layer's weight in place, in one pass over it; the adapter is left as it was.

    Into bfloat16 weights the sum is exact to float32 over any number of merges (see `split_weights`).
    """
    b, a = adapter_parameters(layer)
    add_product(layer.get_base_layer(), b.detach(), a.detach(), layer.scaling[ADAPTER])


@torch.no_grad()
def restart(layer: LoraLayer, generator: Generator) -> None:
    """Draw a new A, uniform within 1/√in (Kaiming with a = √5), and set B to zero.

    The numbers come from a generator on the CPU, so that they are the same on every device.
    """
    b, a = adapter_parameters(layer)
    bound = float(a.shape[1] ** -0.5)
    a.copy_(torch.empty(a.shape).uniform_(-bound, bound, generator=generator))
    b.zero_()


def merge_and_restart(model_layers: Mapping[str, LoraLayer], generator: Generator) -> None:
    """Merge every layer and start it anew: the model computes what it computed before."""
    for layer in model_layers.values():
        merge(layer)
        restart(layer, generator)


class Base(BaseModel):
    """The plain model that an adapter was trained beside."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    sha256: str
    mask_token: int | None = None


def save(model: PeftModel, folder: Path, base: Base | None = None) -> None:
    """Write the adapter as a folder that PEFT loads, whole or not at all; a failure leaves `folder` as it was.

    It fits the weights that it was trained beside: after a merge those are no longer the ones that were loaded. Where
    they are, `base` says which.
    """
    with new_folder(folder) as partial:
        with system_errors():
            model.save_pretrained(str(partial))
        if base:
            (partial / _BASE).write_text(base.model_dump_json(indent=1) + "\n", encoding="utf-8")


def check_base(folder: Path, base: Base) -> int | None:
    """Refuse a model other than the one that an adapter was trained beside, where its folder says which that was.

    Returns the token that stands for hidden ones, where the adapter was trained with one.
    """
    path = folder / _BASE
    if not path.exists():
        return None
    try:
        there = Base.model_validate_json(read_text(path, "file"))
    except ValidationError as error:
        raise DamagedFileError(f"file {path} does not say which model the adapter was trained beside") from error
    if there.sha256 != base.sha256:
        raise BadInputError(
            f"adapter {folder} was trained beside {there.model}, weights {there.sha256[:12]}, "
            f"got {base.model}, weights {base.sha256[:12]}"
        )
    return there.mask_token


def load(model: nn.Module, folder: Path) -> PeftModel:
    """Put a saved adapter beside a model's matrices, trainable; refuse one that is more than s·B·A beside them."""
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / name).exists():
            raise BadInputError(f"folder {folder} holds no adapter: {name} is missing")
    plain: Any = model
    require_plain_lora(folder)
    try:
        with _without_old_name():
            adapted: PeftModel = PeftModel.from_pretrained(plain, str(folder), is_trainable=True)
        with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
            saved = set(file.keys())
    except SafetensorError as error:
        raise DamagedFileError(f"adapter {folder / 'adapter_model.safetensors'} cannot be read: {error}") from error
    except (RuntimeError, TypeError, ValueError) as error:
        raise BadInputError(f"adapter {folder} does not fit the model: {' '.join(str(error).split())[:300]}") from error
    _check_layers(adapted, folder)
    if strange := sorted(saved ^ set(get_peft_model_state_dict(adapted, save_embedding_layers=False))):
        raise BadInputError(f"adapter {folder} does not fit the model: {strange[0]} is in one of them only")
    return adapted


def _check_layers(adapted: PeftModel, folder: Path) -> None:
    """Refuse an adapter of anything but a matrix that is a layer's own."""
    uses = Counter(id(parameter) for _, parameter in adapted.named_parameters(remove_duplicate=False))
    for name, layer in layers(adapted).items():
        linear = layer.get_base_layer()
        if not isinstance(linear, nn.Linear):
            raise BadInputError(f"adapter {folder} must be beside linear layers only, got one of {name}")
        if uses[id(linear.weight)] > 1:
            raise BadInputError(f"adapter {folder} is of {name}, which shares its matrix: a merge would change both")
