"""What processes tell each other; all of it does nothing in a run of one process.

All processes must call these functions in the same order.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of processes that train together; 1 if none were started."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process among those that train together."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def local_rank() -> int:
    """Number of this process among the processes of its machine."""
    return int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0)


def gather_rows(rows: Tensor) -> Tensor:
    """The rows [n, ...] of all processes, in their order; n may differ between processes."""
    if (world := world_size()) == 1:
        return rows
    # A collective needs tensors of one shape: exchange the counts, then pad to the largest.
    count = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.zeros_like(count) for _ in range(world)]
    dist.all_gather(counts, count)
    most = int(max(counts))
    padded = torch.cat([rows, rows.new_zeros(most - len(rows), *rows.shape[1:])])
    gathered = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(gathered, padded)
    return torch.cat([part[: int(n)] for part, n in zip(gathered, counts, strict=True)])


def average_over_processes(tensors: Iterable[Tensor]) -> None:
    """Replace floating-point tensors by their means over all processes."""
    start_averaging(tensors)()


@torch.no_grad()
def start_averaging(tensors: Iterable[Tensor]) -> Callable[[], None]:
    """Start to replace floating-point tensors by their means over all processes.

    Call the result to wait for the means; until then, the tensors are unchanged. One collective per
    dtype: many small ones would each wait for the network.
    """
    groups = defaultdict(list)
    for tensor in tensors if world_size() > 1 else ():
        if tensor.is_floating_point():
            groups[tensor.dtype].append(tensor)
    flats = [torch.cat([tensor.reshape(-1) for tensor in group]) for group in groups.values()]
    works = [dist.all_reduce(flat, async_op=True) for flat in flats]

    @torch.no_grad()
    def finish() -> None:
        for group, flat, work in zip(groups.values(), flats, works, strict=True):
            work.wait()
            flat /= world_size()
            for tensor, mean in zip(group, flat.split([t.numel() for t in group]), strict=True):
                tensor.copy_(mean.view(tensor.shape))

    return finish


def sum_over_processes(tensor: Tensor) -> Tensor:
    """A new tensor, the sum of those of all processes."""
    total = tensor.clone()
    if world_size() > 1:
        dist.all_reduce(total)
    return total


def largest(number: int, device: torch.device) -> int:
    """The largest of the processes' numbers; the same answer in all of them."""
    if world_size() == 1:
        return number
    answer = torch.tensor(int(number), device=device)
    dist.all_reduce(answer, op=dist.ReduceOp.MAX)
    return int(answer)


def any_process(flag: bool, device: torch.device) -> bool:
    """Whether `flag` is set in at least one process; the same answer in all of them."""
    return bool(largest(flag, device))


class SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor over all processes, differentiable to any order.

    Each process's input enters every process's output once, so the gradient of the input is the
    sum of all output gradients: the backward pass is the operation itself.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return SumOverProcesses.apply(grads[0])
