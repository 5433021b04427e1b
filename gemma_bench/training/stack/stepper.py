"""One optimiser step of every model of a stack, none of which touches another."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from gemma_bench.training.stack.arms import PRECISIONS, Training
from gemma_bench.training.stack.blocks import losses
from gemma_bench.training.stack.kernels import compiled
from gemma_bench.training.stack.operations import TORCH, Operations
from gemma_bench.training.stack.shape import Shape

_WARM_UP_STEPS = 3


def operations(device: str, precision: str) -> Operations:
    """Return the fastest operations for a device and precision: C for float32 on the CPU, torch elsewhere."""
    return (compiled() if device == "cpu" and precision == "float32" else None) or TORCH


class Stepper:
    """A stack's weights and moments on a device, one model per row, and the step that moves the first rows of them."""

    def __init__(
        self,
        shape: Shape,
        training: Training,
        weights: Tensor,
        data: Tensor,
        device: str,
        trained: Tensor | None = None,
    ) -> None:
        """Take the weights, all sequences of all models and, where some weights are frozen, a mask of the others."""
        self.shape, self.training, self.device = shape, training, device
        held, self._computed = PRECISIONS[training.precision]
        self.weights, self._data = weights.to(device, held, copy=True), data.to(device)
        self.first, self.second = torch.zeros_like(self.weights), torch.zeros_like(self.weights)
        self._trained = None if trained is None else trained.to(device, held)
        self._operations = operations(device, training.precision)
        self._captured: _Captured | None = None

    def run(self, chosen: Tensor, scales: Tensor) -> Tensor:
        """Take a step per batch, `chosen` naming its sequences, `step model sequence`; return losses, `step model`."""
        step = self._captured_step(chosen) if self.device == "cuda" else self.step
        return torch.stack([step(*batch) for batch in zip(chosen, scales, strict=True)])

    def step(self, chosen: Tensor, scales: Tensor) -> Tensor:
        """Move the first len(chosen) models by one step and return their losses (nats per token) before it."""
        active, tokens = slice(len(chosen)), self._data[chosen]
        weights = self.weights[active]
        leaf = weights.detach().requires_grad_()
        loss = losses(leaf, tokens, self.shape, self._operations, self._computed)
        (gradient,) = torch.autograd.grad(loss.sum(), leaf)
        if self._trained is not None:
            gradient = gradient * self._trained[active]
        if self.training.clip is not None:
            norm = gradient.norm(dim=1, keepdim=True)
            gradient = gradient * (self.training.clip / norm.clamp_min(self.training.clip))
        betas = {"beta1": self.training.beta1, "beta2": self.training.beta2, "epsilon": self.training.epsilon}
        self._operations.adamw(weights, gradient, self.first[active], self.second[active], scales, **betas)
        return loss.detach()

    def _captured_step(self, chosen: Tensor) -> "_Captured":
        if self._captured is None or self._captured.models != chosen.shape[1]:
            self._captured = None
            self._captured = _Captured(self, chosen[0])
        return self._captured


class _Captured:
    """A step as one CUDA graph: a tiny model's step is hundreds of launches that cost more than their work."""

    def __init__(self, stepper: Stepper, chosen: Tensor) -> None:
        self.models = len(chosen)
        self._chosen = chosen.clone()
        self._scales = torch.zeros(self.models, 2, device=chosen.device)
        kept = [tensor.clone() for tensor in (stepper.weights, stepper.first, stepper.second)]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP_STEPS):
                stepper.step(self._chosen, self._scales)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._loss = stepper.step(self._chosen, self._scales)
        for tensor, before in zip((stepper.weights, stepper.first, stepper.second), kept, strict=True):
            tensor.copy_(before)

    def __call__(self, chosen: Tensor, scales: Tensor) -> Tensor:
        self._chosen.copy_(chosen)
        self._scales.copy_(scales)
        self._graph.replay()
        return self._loss.clone()


@contextmanager
def rounding(training: Training) -> Iterator[None]:
    """Let CUDA round float32 products to TF32, or keep it from doing so, and leave the setting as it was."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if training.allows_tf32 else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute in one thread: products this small only lose by sharing, and the order of sums stays the same."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def no_denormals() -> Iterator[None]:
    """Take numbers below 1e-38 for zero: processors need a hundred times as long for them.

    A model that is sure of itself gives most symbols such a probability.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
