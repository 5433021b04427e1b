"""What torch tells about memory: CUDA keeps peaks itself; on CPU and MPS tensors are counted one by one."""

from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import torch

from gemma_bench.measure.memory import host_limit_bytes
from gemma_bench.measure.tensor_tracker import TensorTracker, loading_in_this_thread, model_tensors


class TrackedAllocator:
    """Torch on CPU or MPS; the mps branch was never run until a record from such a machine exists."""

    def __init__(self, device: str) -> None:
        """Take the device's name and start with nothing alive."""
        self.device, self.tracker = device, TensorTracker()

    def watch(self) -> AbstractContextManager[object]:
        """Count tensors, those that transformers loads too."""
        stack = ExitStack()
        stack.enter_context(loading_in_this_thread())
        stack.enter_context(self.tracker)
        return stack

    def adopt(self, backend: Any) -> None:
        """Count a loaded model."""
        self.tracker.adopt(model_tensors(backend.model))

    def reset_peak(self) -> None:
        """Start a new peak from what is alive now, blocks kept for later given back."""
        if self.device == "mps":
            torch.mps.empty_cache()
        self.tracker.reset_peak()

    def peak_bytes(self) -> int | None:
        """Return the peak of what was counted."""
        return self.tracker.peak_bytes

    def cache_bytes(self) -> int | None:
        """Return what MPS's driver holds beyond live tensors; the CPU's allocator keeps nothing."""
        if self.device != "mps":
            return None
        return int(torch.mps.driver_allocated_memory() - torch.mps.current_allocated_memory())

    def limit_bytes(self) -> int:
        """Return the recommended maximum of MPS, or the machine's memory."""
        return int(torch.mps.recommended_max_memory()) if self.device == "mps" else host_limit_bytes()


class CudaAllocator:
    """Torch on CUDA, less what was alive when this was made."""

    def __init__(self) -> None:
        """Take what is alive now, other models in this process, as nothing."""
        self._before_bytes = int(torch.cuda.memory_allocated())

    def watch(self) -> AbstractContextManager[object]:
        """Watch nothing: CUDA's allocator counts by itself."""
        return nullcontext()

    def adopt(self, backend: Any) -> None:
        """Count a loaded model."""
        self._before_bytes -= backend.weight_bytes()

    def reset_peak(self) -> None:
        """Start a new peak from what is alive now, blocks kept for later given back."""
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()

    def peak_bytes(self) -> int | None:
        """Return the allocator's peak."""
        return int(torch.cuda.max_memory_allocated()) - self._before_bytes

    def cache_bytes(self) -> int | None:
        """Return what is reserved beyond live tensors."""
        return int(torch.cuda.memory_reserved() - torch.cuda.memory_allocated())

    def limit_bytes(self) -> int:
        """Return the card's memory."""
        return int(torch.cuda.get_device_properties(0).total_memory)
