"""Training steps ready to be timed, and what CUDA's allocator held at the peak of one."""

import gc
from collections.abc import Callable

import torch

from gemma_bench.core.errors import BadInputError
from gemma_bench.training.plan import Plan
from gemma_bench.training.step import Training, prepared_model


def started(plan: Plan, device: str) -> Training:
    """Build a run and train it until its optimizer's states are there and its kernels warm."""
    training = Training(prepared_model(plan, device), plan)
    training.step()
    training.step()
    return training


def allocator_peak_bytes(plan: Plan, device: str) -> int:
    """Return the allocator's peak over a step, less what was there before the run was built."""
    # never run until a record from such a machine exists
    if device != "cuda":
        raise BadInputError(f"device must be cpu or cuda, whose allocator keeps a peak, got {device}")
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    training = started(plan, device)
    torch.cuda.reset_peak_memory_stats()
    training.step()
    return int(torch.cuda.max_memory_allocated()) - before


def steps(training: Training, count: int) -> Callable[[], object]:
    """Return the work of so many steps."""

    def work() -> None:
        for _ in range(count):
            training.step()

    return work
