"""The memory that a training may take on a device now."""

import torch

from gemma_bench.core.available_memory import available_bytes


def free_bytes(device: str) -> int:
    """Return the memory that is free on a device."""
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    if device == "mps":  # never run until a record from such a machine exists
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return available_bytes()
