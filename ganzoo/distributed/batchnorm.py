"""Batch normalization over the batches of all processes."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from lightning.pytorch.plugins import LayerSync
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ganzoo.distributed.collectives import SumOverProcesses, world_size


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
        count = x.numel() // x.shape[1] * world  # values per channel in all processes
        mean: Tensor = SumOverProcesses.apply(x.sum(dims)) / count
        # The variance from centered values: E[x^2] - E[x]^2 would lose digits to cancellation.
        centered = x - mean.view(shape)
        var: Tensor = SumOverProcesses.apply(centered.square().sum(dims)) / count
        if self.running_mean is not None and self.running_var is not None:
            with torch.no_grad():
                assert self.num_batches_tracked is not None
                self.num_batches_tracked += 1
                # momentum=None means a cumulative average, as in PyTorch.
                rate = (
                    1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                )
                self.running_mean.lerp_(mean.to(self.running_mean), rate)
                # The running variance is the unbiased one, as in PyTorch.
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
    """Inside, BatchNorm uses the statistics of this process's batches alone."""
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
