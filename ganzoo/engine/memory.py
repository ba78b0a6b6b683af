"""How much memory training takes."""

import psutil
import torch


def peak_memory(device: torch.device) -> int:
    """Largest memory of a GPU in bytes since `forget_peak`.

    On a CPU, the memory that the process holds now: not every system records a peak.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return int(psutil.Process().memory_info().rss)


def forget_peak(device: torch.device) -> None:
    """Start a new measurement of `peak_memory`."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
