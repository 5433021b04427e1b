"""ReLoRA: high rank through merged low-rank updates (Lialin et al., arXiv:2307.05695v4).

Train full-rank for a while, then adapters; every `reset_interval` steps merge them into the weights, draw new ones,
forget their moments and climb from rate zero again. Deviations from the reference code: its adapters start with A = 0
and B = 0, so nothing but the embeddings learns before the first merge; its pruning takes a threshold per moment, and an
entry that keeps a first moment and loses the second one makes Adam explode: here both share one mask.
"""

from typing import Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Generator, nn

from gemma_bench.core.errors import BadInputError
from gemma_bench.training.adapters import layers, merge_and_restart
from gemma_bench.training.change import CumulativeChange
from gemma_bench.training.method import Group, Lora, MethodCallback, Moment, Prepared, all_adapter_parameters
from gemma_bench.training.moments import prune_moments, reset_moments
from gemma_bench.training.schedule import Schedule, cosine, scaled
from gemma_bench.training.settings import Settings

FULL_RANK_TO_LOW_RANK = 2.0
"""The paper's rule: adapters learn at twice the rate that suits full-rank training."""


class ReLoRA(Lora):
    """Adapters that are merged and restarted at an interval, after a full-rank warm start."""

    name: ClassVar[str] = "relora"
    reset_interval: int = Field(200, ge=2, description="Steps between two merges.")
    rewarm_steps: int = Field(10, ge=0, description="Steps in which the rate climbs back from zero after a merge.")
    warm_start_steps: int = Field(0, ge=0, description="Steps of full-rank training before the adapters.")
    rate_factor: float = Field(
        FULL_RANK_TO_LOW_RANK, gt=0, le=1e3, description="Adapters' rate over the full-rank rate."
    )
    moments: Literal["reset", "prune", "keep"] = Field("reset", description="What a merge does to Adam's moments.")
    pruned_share: float = Field(0.99, ge=0, le=1, description="Share of both moments that pruning sets to zero.")
    keep_change: bool = Field(True, description="Keep what was merged, up to the matrices' size, to read its rank.")
    embeddings: bool = Field(False, description="Train the embedding and the norms too, at the adapters' rate.")

    @property
    def trains_weights(self) -> bool:
        """With a warm start or trained embeddings."""
        return self.embeddings or self.warm_start_steps > 0

    def prepare(self, model: nn.Module, settings: Settings) -> Prepared:
        """Attach adapters; the weights beside them learn until the warm start ends, embeddings to the end."""
        if self.rewarm_steps >= self.reset_interval:
            raise BadInputError(
                f"rewarm steps must be below the reset interval, {self.reset_interval}, got {self.rewarm_steps}"
            )
        adapted = self.attach(model, settings)
        adapters = all_adapter_parameters(adapted)
        jagged = scaled(jagged_cosine(settings, self), self.rate_factor)
        groups = [Group(adapters, jagged)]
        beside = [cast(Any, layer.get_base_layer()).weight for layer in layers(adapted).values()]
        if self.embeddings or self.warm_start_steps:
            known = {id(parameter) for parameter in (*adapters, *beside)}
            others = [parameter for parameter in adapted.parameters() if id(parameter) not in known]
            groups.append(Group(others, switched(cosine(settings), jagged, self.warm_start_steps)))
        if self.warm_start_steps:
            groups.append(Group(beside, cosine(settings)))
        restarts = Restarts(self, settings.seed + 1)
        change = restarts.change if self.keep_change else None
        return Prepared(adapted, groups, callbacks=[restarts], changes_frozen_weights=True, change=change)

    def kept_rank(self, steps: int) -> int:
        """Return the rank times the merges: none at the very end."""
        merges = max(steps - 1 - self.warm_start_steps, 0) // self.reset_interval
        return self.rank * merges if self.keep_change else 0

    def forget(self, optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> None:
        """Do to the adapters' moments what this method does at a merge."""
        if self.moments == "reset":
            reset_moments(optimizer, parameters)
        elif self.moments == "prune":
            prune_moments(optimizer, parameters, self.pruned_share)


def jagged_cosine(settings: Settings, method: ReLoRA) -> Schedule:
    """Return the cosine with a tooth at every restart: zero, then linear back to the cosine in the re-warm steps."""
    plain, first, rewarm = cosine(settings), method.warm_start_steps, method.rewarm_steps

    def share(step: int) -> float:
        since = (step - first) % method.reset_interval
        has_restarted = step >= first + (0 if first else method.reset_interval)
        if not has_restarted or since >= rewarm:
            return plain(step)
        return since / rewarm * plain(step - since + rewarm)

    return share


def switched(before: Schedule, after: Schedule, step: int) -> Schedule:
    """Follow one schedule up to a step and another from there."""
    return lambda now: before(now) if now < step else after(now)


class Restarts(MethodCallback):
    """Ends the warm start, and merges and restarts the adapters on time."""

    def __init__(self, method: ReLoRA, seed: int) -> None:
        """Start with nothing merged; `change` is what the weights were changed by since the adapters began."""
        self.method, self.generator = method, Generator().manual_seed(seed)
        self.change = CumulativeChange(method.warm_start_steps)
        self.first_merge = method.warm_start_steps + method.reset_interval

    def begin(self, now: Moment) -> None:
        """Let the weights learn while the warm start lasts, the adapters afterwards."""
        self._hand_over(now, is_warm=now.step < self.method.warm_start_steps)

    def after_step(self, now: Moment) -> None:
        """Hand over at the end of the warm start; merge at every interval after it, but not at the very end."""
        since = now.step - self.method.warm_start_steps
        if since == 0:
            self._hand_over(now, is_warm=False)
        elif since > 0 and since % self.method.reset_interval == 0 and now.step < now.steps:
            if self.method.keep_change:
                self.change.record(layers(now.model))
            merge_and_restart(layers(now.model), self.generator)
            self.method.forget(now.optimizer, all_adapter_parameters(now.model))

    def _hand_over(self, now: Moment, *, is_warm: bool) -> None:
        """Let either the weights or the adapters learn; what no longer learns frees its moments."""
        beside = {id(cast(Any, layer.get_base_layer()).weight) for layer in layers(now.model).values()}
        adapters = {id(parameter) for parameter in all_adapter_parameters(now.model)}
        for layer in layers(now.model).values():
            layer.enable_adapters(not is_warm)
        for parameter in now.model.parameters():
            if id(parameter) not in adapters:
                parameter.requires_grad_(is_warm or (self.method.embeddings and id(parameter) not in beside))
            if not parameter.requires_grad:
                now.optimizer.state.pop(parameter, None)

    def state_dict(self) -> dict[str, Any]:
        """Return where the random numbers are and what was merged."""
        return {"generator": self.generator.get_state(), "change": self.change.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self.generator.set_state(state["generator"])
        self.change.load_state_dict(state["change"])
