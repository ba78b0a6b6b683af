"""Data parallelism for networks that take turns.

Plain DDP registers all parameters of the module once and expects every one of them to have a
gradient after each backward; a GAN breaks that at its second backward. Here the module is not
wrapped at all: after the backward passes of one network, that network's gradients are averaged in
one flat collective, and nothing else travels. So accumulation is a for loop, and any number of
forwards and backwards, double backward included, may come before a step.

The one duty: which parameters have a gradient must not differ between processes, so every branch
in a model's step has to be a function of the images seen.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import ClusterEnvironment
from lightning.pytorch.plugins import LayerSync
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from ganzoo.distributed import cluster
from ganzoo.errors import UserError


class Replicated(DDPStrategy):
    """One replica per process, starting alike, with the gradients of each optimizer step averaged.

    Args:
        timeout: minutes that processes wait for each other, when they meet and later.
        cluster_environment: who started them; None: what it looks like.
        options: those of Lightning's `DDPStrategy`.
    """

    def __init__(
        self,
        timeout: float = 30.0,
        cluster_environment: ClusterEnvironment | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            timeout=timedelta(minutes=timeout),
            cluster_environment=cluster_environment or cluster.environment(),
            **options,
        )
        self.minutes = timeout

    def set_world_ranks(self) -> None:
        assert self.cluster_environment is not None
        cluster.check_number(self.cluster_environment, self.num_processes, self.num_nodes)
        super().set_world_ranks()

    def setup_distributed(self) -> None:
        cluster.check_backend(self.process_group_backend, self.root_device.type)
        with cluster.explained(self.minutes):
            super().setup_distributed()

    def configure_ddp(self) -> None:
        assert self.lightning_module is not None
        module = self.lightning_module
        seen = int(getattr(module, "images_seen", 0))
        if largest(seen, self.root_device) != -largest(-seen, self.root_device):
            raise UserError(
                "The processes would not go on from the same moment, as the run folder is not the "
                "same for all of them: choose a run_dir that all nodes share."
            )
        for tensor in (*module.parameters(), *module.buffers()):
            dist.broadcast(tensor.detach(), src=0)

    def optimizer_step(
        self,
        optimizer: Optimizer,
        closure: Callable[[], Any],
        model: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Average the gradients of the optimizer's parameters, then step."""
        parameters = (p for group in optimizer.param_groups for p in group["params"])
        average_over_processes([p.grad for p in parameters if p.grad is not None])
        return super().optimizer_step(optimizer, closure, model, **kwargs)


def world_size() -> int:
    """Number of processes that train together; 1 where none were started."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process among those that train together."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def gather_rows(rows: Tensor) -> Tensor:
    """The rows [n, ...] of all processes, whose numbers may differ, one after the other."""
    if (world := world_size()) == 1:
        return rows
    count = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.zeros_like(count) for _ in range(world)]
    dist.all_gather(counts, count)
    most = int(max(counts))
    padded = torch.cat([rows, rows.new_zeros(most - len(rows), *rows.shape[1:])])
    gathered = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(gathered, padded)
    return torch.cat([part[: int(n)] for part, n in zip(gathered, counts, strict=True)])


@torch.no_grad()
def average_over_processes(tensors: Iterable[Tensor]) -> None:
    """Replace floating-point tensors by their means over all processes, one collective a dtype."""
    if (world := world_size()) == 1:
        return
    groups = defaultdict(list)
    for tensor in tensors:
        if tensor.is_floating_point():
            groups[tensor.dtype].append(tensor)
    for group in groups.values():
        flat = torch.cat([tensor.reshape(-1) for tensor in group])
        dist.all_reduce(flat)
        flat /= world
        for tensor, mean in zip(group, flat.split([t.numel() for t in group]), strict=True):
            tensor.copy_(mean.view(tensor.shape))


def local_rank() -> int:
    """Number of this process among those of its machine."""
    return int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0)


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


class _SumOverProcesses(torch.autograd.Function):
    """Differentiable to any order, because its backward is itself."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _SumOverProcesses.apply(grads[0])


class SyncedBatchNorm(_BatchNorm):
    """Batch normalization over the batches of all processes, at equal batch size in each.

    PyTorch's own `SyncBatchNorm` runs on GPUs only and cannot be differentiated twice, as gradient
    penalties need; this one does both. Attributes and state are those of `nn.BatchNorm*d`.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, input: Tensor) -> Tensor:
        world = world_size()
        if not self.training or world == 1:
            return super().forward(input)
        x = input if input.dtype == torch.float64 else input.float()
        dims = [d for d in range(x.dim()) if d != 1]
        shape = [1, -1, *[1] * (x.dim() - 2)]
        count = x.numel() // x.shape[1] * world
        mean: Tensor = _SumOverProcesses.apply(x.sum(dims)) / count
        centered = x - mean.view(shape)
        var: Tensor = _SumOverProcesses.apply(centered.square().sum(dims)) / count
        if self.running_mean is not None and self.running_var is not None:
            with torch.no_grad():
                assert self.num_batches_tracked is not None
                self.num_batches_tracked += 1
                rate = (
                    1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                )
                self.running_mean.lerp_(mean.to(self.running_mean), rate)
                self.running_var.lerp_((var * count / (count - 1)).to(self.running_var), rate)
        y = centered * (var + self.eps).rsqrt().view(shape)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(input.dtype)


class BatchNormSync(LayerSync):
    """Lightning plugin (`sync_batchnorm: true`): every BatchNorm becomes a `SyncedBatchNorm`."""

    def __init__(self) -> None:
        self._original: dict[nn.Module, type] = {}

    def apply(self, model: nn.Module) -> nn.Module:
        # The class is exchanged in place, so parameters, optimizers and checkpoint keys stay.
        for module in model.modules():
            if isinstance(module, _BatchNorm) and not isinstance(module, SyncedBatchNorm):
                self._original[module] = type(module)
                module.__class__ = SyncedBatchNorm
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        for module, original in self._original.items():
            module.__class__ = original
        self._original.clear()
        return model


@contextmanager
def local_batchnorm(module: nn.Module) -> Iterator[None]:
    """Inside, BatchNorm takes the statistics of this process's batches alone."""
    synced = [m for m in module.modules() if isinstance(m, SyncedBatchNorm)]
    for norm in synced:
        norm.__class__ = _LocalBatchNorm
    try:
        yield
    finally:
        for norm in synced:
            norm.__class__ = SyncedBatchNorm


class _LocalBatchNorm(SyncedBatchNorm):
    def forward(self, input: Tensor) -> Tensor:
        return _BatchNorm.forward(self, input)
