"""What MLX tells about memory: its peak counts live arrays and leaves out the buffers that it keeps for later."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import mlx.core as mx

from gemma_bench.measure.memory import host_limit_bytes


class MlxAllocator:
    """MLX's allocator, less what was alive when this was made; on Metal never run until a record exists."""

    def __init__(self) -> None:
        """Take what is alive now, other models in this process, as nothing."""
        mx.synchronize()
        self._before_bytes = int(mx.get_active_memory())

    def watch(self) -> AbstractContextManager[object]:
        """Watch nothing: MLX counts by itself."""
        return nullcontext()

    def adopt(self, backend: Any) -> None:
        """Count a loaded model."""
        self._before_bytes -= backend.weight_bytes()

    def reset_peak(self) -> None:
        """Start a new peak from what is alive now, buffers kept for later given back."""
        mx.synchronize()
        mx.clear_cache()
        mx.reset_peak_memory()

    def peak_bytes(self) -> int | None:
        """Return the peak of live arrays."""
        mx.synchronize()
        return max(int(mx.get_peak_memory()), int(mx.get_active_memory())) - self._before_bytes

    def cache_bytes(self) -> int | None:
        """Return the buffers kept for later."""
        return int(mx.get_cache_memory())

    def limit_bytes(self) -> int:
        """Return the working set that Metal recommends, or the machine's memory."""
        if mx.metal.is_available():
            return int(mx.device_info()["max_recommended_working_set_size"])
        return host_limit_bytes()
