"""The average generator: an exponential moving average of its weights (EMA)."""

from dataclasses import dataclass

import torch
from torch import nn

from ganzoo.schedules.images import ema_beta


@dataclass(frozen=True)
class Averaging:
    """How the average, `gan.average`, follows the generator: the arguments `ema_*` of `GAN`."""

    kimg: float
    rampup: float | None
    beta: float | None
    start_kimg: float
    buffers: bool

    @property
    def wanted(self) -> bool:
        """Whether the run has an average."""
        return bool(self.kimg or self.beta)

    def decay(self, images: int, images_seen: int) -> float:
        """Share of the old average that is kept in an iteration of so many images."""
        if images_seen <= self.start_kimg * 1000:
            return 0.0
        if self.beta is None:
            return ema_beta(images, self.kimg, self.rampup, images_seen)
        return self.beta

    @torch.no_grad()
    def update(
        self, average: nn.Module, generator: nn.Module, images: int, images_seen: int
    ) -> None:
        """Move the average towards the generator after an iteration of so many images."""
        beta = self.decay(images, images_seen)
        # One fused operation for all weights, instead of one kernel for each.
        torch._foreach_lerp_(list(average.parameters()), list(generator.parameters()), 1 - beta)
        for target, source in zip(average.buffers(), generator.buffers(), strict=True):
            # Counters are integers, of which there is no mean.
            if self.buffers and target.is_floating_point():
                target.lerp_(source, 1 - beta)
            else:
                target.copy_(source)
