"""What a training method is to the trainer, and the two plain ones: full-rank training and LoRA."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn
from transformers import TrainerCallback, TrainerState, TrainingArguments

from gemma_bench.training.adapters import ADAPTER, PROJECTIONS, adapter_parameters, attach, layers, token_rows
from gemma_bench.training.change import CumulativeChange
from gemma_bench.training.objective import Objective
from gemma_bench.training.schedule import Schedule, cosine
from gemma_bench.training.settings import Settings

MakeOptimizer = Callable[[list[dict[str, Any]], Settings], torch.optim.Optimizer]


@dataclass(frozen=True)
class Group:
    """Parameters that share a schedule, which multiplies the settings' learning rate."""

    parameters: list[nn.Parameter]
    schedule: Schedule


@dataclass(frozen=True)
class Moment:
    """Where a run is: steps done and steps in all, and what is being trained."""

    step: int
    steps: int
    model: nn.Module
    optimizer: torch.optim.Optimizer
    clip_norm: float


def _moment(args: TrainingArguments, state: TrainerState, model: nn.Module, optimizer: Any) -> Moment:
    return Moment(state.global_step, state.max_steps, model, optimizer, args.max_grad_norm)


class MethodCallback(TrainerCallback):
    """The part of a method that acts while the trainer runs; its state goes into every checkpoint.

    `first_merge` is the step after which it merges first, if it merges at all.
    """

    first_merge: int = 1

    def begin(self, now: Moment) -> None:
        """Act before the first step, of a resumed run too."""

    def before_gradients(self, now: Moment) -> None:
        """Act before the first forward pass of a step."""

    def before_step(self, now: Moment) -> None:
        """Act when a step's gradients are there, clipped."""

    def after_step(self, now: Moment) -> None:
        """Act after the optimizer's step, before anything is logged or saved."""

    def end(self, now: Moment) -> None:
        """Act after the last step."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a resumed run needs to go on as if it had never stopped."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:  # noqa: ARG002, D102
        self.begin(_moment(args, state, more["model"], more["optimizer"]))

    def on_step_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:  # noqa: ARG002, D102
        self.before_gradients(_moment(args, state, more["model"], more["optimizer"]))

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **more: Any) -> None:  # noqa: ARG002, D102
        self.before_step(_moment(args, state, more["model"], more["optimizer"]))

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:  # noqa: ARG002, D102
        self.after_step(_moment(args, state, more["model"], more["optimizer"]))

    def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:  # noqa: ARG002, D102
        self.end(_moment(args, state, more["model"], more["optimizer"]))


def adamw(groups: list[dict[str, Any]], settings: Settings) -> torch.optim.Optimizer:
    """Return AdamW with the settings' decays."""
    betas = (settings.beta1, settings.beta2)
    return torch.optim.AdamW(groups, settings.learning_rate, betas, weight_decay=settings.weight_decay)


@dataclass(frozen=True)
class Prepared:
    """A model made ready by a method.

    `changes_frozen_weights` says that merges change what no optimizer owns; `change` is all that they added, where
    adapters and what is kept of them hold the whole change; `objective` is next tokens by default; `mask_token` is the
    id that stands for hidden tokens, where the model learns to fill them in.
    """

    model: nn.Module
    groups: list[Group]
    optimizer: MakeOptimizer = adamw
    callbacks: list[MethodCallback] = field(default_factory=list)
    changes_frozen_weights: bool = False
    change: CumulativeChange | None = None
    objective: Objective | None = None
    mask_token: int | None = None


class Method(Protocol):
    """A way to train, with its own options as fields."""

    name: ClassVar[str]
    copies_count: ClassVar[int]

    @property
    def trains_weights(self) -> bool:
        """Whether an optimizer changes the model's own weights, which must then be float32."""
        ...

    @property
    def has_adapters(self) -> bool:
        """Whether adapters are beside the weights, whose change is then quickly read."""
        ...

    def kept_rank(self, steps: int) -> int:
        """Return the sum of the ranks of all merges that a run of so many steps keeps."""
        ...

    def prepare(self, model: nn.Module, settings: Settings) -> Prepared:
        """Make a model ready: what is trained, how fast, and what happens between steps."""
        ...


class Options(BaseModel):
    """Base of the methods' options; `copies_count` is how often a forward pass reads a row."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    copies_count: ClassVar[int] = 1

    def kept_rank(self, steps: int) -> int:  # noqa: ARG002
        """Return the sum of the ranks of all merges that a run of so many steps keeps, so that they can be read."""
        return 0


class Full(Options):
    """Full-rank training of all weights, or of the layers' matrices alone."""

    name: ClassVar[str] = "full"
    embeddings: bool = Field(True, description="Train the embedding and the norms too.")

    @property
    def trains_weights(self) -> bool:
        """Always."""
        return True

    @property
    def has_adapters(self) -> bool:
        """Never."""
        return False

    def prepare(self, model: nn.Module, settings: Settings) -> Prepared:
        """Make everything trainable, or the projections only."""
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(self.embeddings or name.split(".")[-2] in PROJECTIONS)
        return Prepared(model, [Group(list(trainable(model.parameters())), cosine(settings))])


class Lora(Options):
    """Low-rank adapters beside frozen weights."""

    name: ClassVar[str] = "lora"
    rank: int = Field(8, description="Rank of the adapters.")
    alpha: float | None = Field(
        None, gt=0, le=1e30, description="The adapters' scale times the rank; by default twice the rank."
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout before the adapters.")
    targets: tuple[str, ...] = Field(PROJECTIONS, description="Matrices that get an adapter.")

    @property
    def trains_weights(self) -> bool:
        """Never: the weights are frozen."""
        return False

    @property
    def has_adapters(self) -> bool:
        """Always."""
        return True

    def attach(self, model: nn.Module, settings: Settings, token: int | None = None) -> nn.Module:
        """Put the adapters beside the model's matrices, and beside its embedding the row of a token."""
        more: dict[str, Any] = {"targets": self.targets, "dropout": self.dropout, "seed": settings.seed, "token": token}
        return attach(model, self.rank, alpha=self.alpha, **more)

    def prepare(self, model: nn.Module, settings: Settings) -> Prepared:
        """Attach adapters, which alone are trained."""
        return beside_frozen_weights(self.attach(model, settings), settings)


def beside_frozen_weights(adapted: nn.Module, settings: Settings) -> Prepared:
    """Train what was put beside a model's weights, and nothing else."""
    return Prepared(adapted, [Group(all_adapter_parameters(adapted), cosine(settings))], change=CumulativeChange())


def all_adapter_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return every B and A of a model, and every row of its embedding that is trained."""
    rows = [layer.trainable_tokens_delta[ADAPTER] for layer in token_rows(model).values()]
    return [parameter for layer in layers(model).values() for parameter in adapter_parameters(layer)] + rows


def trainable(parameters: Iterable[nn.Parameter]) -> Iterable[nn.Parameter]:
    """Leave out what is frozen."""
    return (parameter for parameter in parameters if parameter.requires_grad)
