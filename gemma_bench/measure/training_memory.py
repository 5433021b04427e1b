"""What a training step takes in memory, by kind: forecast on tensors without contents, or measured on real ones."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from gemma_bench.measure.rank_watch import kept_bytes
from gemma_bench.measure.tensor_tracker import TensorTracker, model_tensors
from gemma_bench.training.method import Prepared
from gemma_bench.training.plan import Plan
from gemma_bench.training.step import Training, prepared_model

KINDS = ("weights", "gradients", "optimizer", "activations", "temporaries")

_LLAMA_PERIOD = 3
"""All its layers are alike; three of them leave a section between the ends of a step."""


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


Peaks = dict[str, int]
"""Bytes by kind at the peak of a section of a step."""

_FEW_PASSES = 2
_LAST_PHASES = 3
"""The last forward and backward pass and the update: what passes keep is all there by then."""


def forecast(plan: Plan) -> TrainingMemory:
    """Count a step's tensors without allocating one, as the CPU would make them; CUDA's kernels may make others.

    Of a deep model two shallow ones are counted: its layers repeat, so that every section's peak grows evenly. With
    checkpointing that was up to 1.4 % off, so that all layers are counted. Of many passes before an update two and
    three are: a second one finds the gradients of the first, and a method may keep something of each.
    """
    found = _step(plan)
    return found.model_copy(update={"optimizer_bytes": found.optimizer_bytes + kept_bytes(plan)})


def _step(plan: Plan) -> TrainingMemory:
    more = plan.gradient_accumulation - _FEW_PASSES
    if more <= 0:
        return _highest(_in_depth(plan))
    few, further = (
        _in_depth(replace(plan, gradient_accumulation=count))[-_LAST_PHASES:]
        for count in (_FEW_PASSES, _FEW_PASSES + 1)
    )
    return _highest(_extended(few, further, more))


def _in_depth(plan: Plan) -> list[list[Peaks]]:
    depths = _depths(plan)
    if depths is None:
        return _foreseen(plan)
    shallow, deeper, times = depths
    return _extended(_foreseen(shallow), _foreseen(deeper), times)


def _foreseen(plan: Plan) -> list[list[Peaks]]:
    prepared = prepared_model(plan, "meta")
    with FakeTensorMode():
        return _sections(Training(_with_fake_tensors(prepared), plan))


def _depths(plan: Plan) -> tuple[Plan, Plan, int] | None:
    """Return a plan of few layers, one with a period more, and the periods from there on; `None` where all count."""
    layers = plan.size.num_hidden_layers
    period = getattr(plan.size, "sliding_window_pattern", _LLAMA_PERIOD)
    few = period + layers % period
    if plan.checkpointing or layers < few + (few + period):
        return None
    shallow, deeper = (
        replace(plan, size=plan.size.model_copy(update={"num_hidden_layers": count})) for count in (few, few + period)
    )
    return shallow, deeper, (layers - few) // period


def _extended(shallow: list[list[Peaks]], deeper: list[list[Peaks]], times: int) -> list[list[Peaks]]:
    """Continue the peaks of two depths, or numbers of passes, to a greater one, from both ends of each phase."""
    return [
        [_continued(a[at], b[at], times) for at in (*range((len(a) + 1) // 2), *range(-(len(a) // 2), 0))]
        for a, b in zip(shallow, deeper, strict=True)
    ]


def _continued(shallow: Peaks, deeper: Peaks, times: int) -> Peaks:
    kinds = {**shallow, **deeper}
    return {kind: shallow.get(kind, 0) + times * (deeper.get(kind, 0) - shallow.get(kind, 0)) for kind in kinds}


def _highest(phases: list[list[Peaks]]) -> TrainingMemory:
    peak = max((section for phase in phases for section in phase), key=lambda section: sum(section.values()))
    return TrainingMemory(**{f"{kind}_bytes": peak.get(kind, 0) for kind in KINDS})


def measure(plan: Plan) -> TrainingMemory:
    """Count the tensors of a real step on the CPU."""
    return tracked(Training(prepared_model(plan, "cpu"), plan))


def tracked(training: Training) -> TrainingMemory:
    """Count the tensors of a later step: states of the optimizer and of the method are there already.

    A merge at a step's end is left out: it works in blocks and needs less than the step.
    """
    return _highest(_sections(training))


def _sections(training: Training) -> list[list[Peaks]]:
    """Return the peaks of a step, phase by phase; a phase has a section more than it finishes gradients."""
    tracker, phases, steps = TensorTracker("weights"), list[list[Peaks]](), list[list[list[Peaks]]]()
    tracker.adopt((*model_tensors(training.prepared.model), *training.batch.values()))
    ends = _ends_section(tracker, phases)
    hooks = [parameter.register_post_accumulate_grad_hook(ends) for parameter in training.trained]
    with tracker:
        tracker.kind = "optimizer"
        training.make_states()
        live_bytes = 0
        while tracker.live_bytes > live_bytes:  # what a method keeps for itself is there from the second step on
            live_bytes = tracker.live_bytes
            tracker.reset_peak()
            phases[:] = [[]]
            for phase in training.phases():
                phases[-1].append(tracker.at_peak)
                phases.append([])
                tracker.reset_peak()
                tracker.kind = "activations" if phase == "forward" else "temporaries"
            phases[-1].append(tracker.at_peak)
            steps.append(list(phases))
    for hook in hooks:
        hook.remove()
    return max(steps, key=lambda step: _highest(step).peak_bytes)  # a method may look at gradients in some steps only


def _ends_section(tracker: TensorTracker, phases: list[list[Peaks]]) -> Callable[[Tensor], None]:
    def end(parameter: Tensor) -> None:
        if parameter.grad is not None:
            phases[-1].append(tracker.at_peak)
            tracker.relabel([parameter.grad], "gradients")
            tracker.reset_peak()

    return end


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
