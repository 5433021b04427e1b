"""What a training step takes in memory, by kind: forecast on tensors without contents, or measured on real ones."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from gemma_bench.core.errors import BadInputError
from gemma_bench.measure.tensor_tracker import TensorTracker, model_tensors
from gemma_bench.training.method import Prepared
from gemma_bench.training.plan import Plan
from gemma_bench.training.step import Training, prepared_model

KINDS = ("weights", "gradients", "optimizer", "activations", "temporaries")


class NotForeseenError(BadInputError):
    """A step decides by values, which tensors without contents have not."""


class TrainingMemory(BaseModel):
    """The bytes of each kind at the moment of a step's peak.

    Activations are what the forward pass makes, temporaries what the backward pass and the update make beside
    gradients and optimizer states.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    temporaries_bytes: int

    @property
    def peak_bytes(self) -> int:
        """All of it."""
        return sum(self.model_dump().values())


def forecast(plan: Plan) -> TrainingMemory:
    """Count a step's tensors without allocating one, as the CPU would make them; CUDA's kernels may make others."""
    prepared = prepared_model(plan, "meta")
    with FakeTensorMode(), _explained(plan):
        return tracked(Training(_with_fake_tensors(prepared), plan))


@contextmanager
def _explained(plan: Plan) -> Iterator[None]:
    """Refuse a method that reads numbers."""
    try:
        yield
    except DataDependentOutputException as error:
        raise NotForeseenError(
            f"{plan.method!r} decides by values: its memory can be measured, not forecast"
        ) from error


def measure(plan: Plan) -> TrainingMemory:
    """Count the tensors of a real step on the CPU."""
    return tracked(Training(prepared_model(plan, "cpu"), plan))


def tracked(training: Training) -> TrainingMemory:
    """Count the tensors of a later step: states of the optimizer and of the method are there already.

    A merge at a step's end is left out: it works in blocks and needs less than the step.
    """
    tracker = TensorTracker("weights")
    tracker.adopt((*model_tensors(training.prepared.model), *training.batch.values()))
    hooks = [parameter.register_post_accumulate_grad_hook(_labels(tracker)) for parameter in training.trained]
    with tracker:
        tracker.kind = "optimizer"
        training.make_states()
        live_bytes = 0
        while tracker.live_bytes > live_bytes:  # what a method keeps for itself is there from the second step on
            live_bytes = tracker.live_bytes
            tracker.reset_peak()
            for phase in training.phases():
                tracker.kind = "activations" if phase == "forward" else "temporaries"
    for hook in hooks:
        hook.remove()
    return TrainingMemory(**{f"{kind}_bytes": tracker.at_peak.get(kind, 0) for kind in KINDS})


def _labels(tracker: TensorTracker) -> Callable[[Tensor], None]:
    def label(parameter: Tensor) -> None:
        if parameter.grad is not None:
            tracker.relabel([parameter.grad], "gradients")

    return label


def _with_fake_tensors(prepared: Prepared) -> Prepared:
    """Put a tensor of this moment's mode in the place of each parameter and buffer; what was tied stays tied."""
    fakes: dict[int, Any] = {}
    for module in prepared.model.modules():
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is not None:
                    fakes.setdefault(id(tensor), _fake(tensor))
                    held[name] = fakes[id(tensor)]
    groups = [replace(group, parameters=[fakes[id(one)] for one in group.parameters]) for group in prepared.groups]
    return replace(prepared, groups=groups)


def _fake(tensor: Tensor) -> Tensor:
    new = torch.empty(tensor.shape, dtype=tensor.dtype)
    return nn.Parameter(new, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else new
