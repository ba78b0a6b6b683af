"""Metrics of translated images.

All compare pairs of 8-bit images, as they would be saved, and are means over these pairs.
"""

import torch
from torch import Tensor

from ganzoo.metrics.base import SuiteMetric
from ganzoo.metrics.ssim import ssim

LEAST_MSE = 1 / 12  # of 8-bit images: the variance of rounding


class _MeanOverImages(SuiteMetric):
    """Means of numbers by name, with one number per image."""

    def __init__(self) -> None:
        super().__init__()
        for name in self.names:
            zero = torch.zeros((), dtype=torch.float64)
            self.add_state(f"{name}_sum", zero, dist_reduce_fx="sum")
            self.add_state(f"{name}_count", zero, dist_reduce_fx="sum")

    def _add(self, name: str, values: Tensor) -> None:
        """Numbers [N], float64."""
        setattr(self, f"{name}_sum", getattr(self, f"{name}_sum") + values.sum())
        setattr(self, f"{name}_count", getattr(self, f"{name}_count") + len(values))

    def compute(self) -> dict[str, Tensor]:
        """The means; names without any number are left out."""
        return {
            name: getattr(self, f"{name}_sum") / getattr(self, f"{name}_count")
            for name in self.names
            if getattr(self, f"{name}_count") > 0
        }


class Cycle(_MeanOverImages):
    """Mean absolute difference of images and their reconstructions, in units of [0, 1]."""

    higher_is_better = False
    names = ("cycle",)

    def update(self, inputs: Tensor, reconstructed: Tensor) -> None:
        """Add images and their reconstructions, uint8 [N, C, H, W]."""
        self._add("cycle", l1(inputs, reconstructed))


class Identity(_MeanOverImages):
    """Mean absolute change of images that are already of the target domain, in units of [0, 1]."""

    higher_is_better = False
    names = ("identity",)

    def update(self, targets: Tensor, identity: Tensor) -> None:
        """Add images of the target domain and their translations, uint8 [N, C, H, W]."""
        self._add("identity", l1(targets, identity))


class Pair(_MeanOverImages):
    """A number for translations and their true partners; `copy_*` is that of untranslated images.

    A model that is worse than `copy_*` is worse than leaving the images unchanged.

    Args:
        measure: "l1", "psnr" or "ssim"; see the functions of these names.
    """

    def __init__(self, measure: str) -> None:
        self.measure, self.names = measure, (measure, f"copy_{measure}")
        super().__init__()

    @property
    def higher_is_better(self) -> bool:  # type: ignore[override]
        return self.measure != "l1"

    def update(self, images: Tensor, inputs: Tensor, partners: Tensor) -> None:
        """Add translations, their inputs, and the true partners, uint8 [N, C, H, W]."""
        name, copy = self.names
        self._add(name, MEASURES[name](images, partners))
        if inputs.shape == partners.shape:
            self._add(copy, MEASURES[name](inputs, partners))


def metrics(
    cycle: bool = True, identity: bool = True, pairs: bool = True
) -> dict[str, SuiteMetric]:
    """The metrics that apply, by label."""
    some: list[_MeanOverImages] = [Cycle()] * cycle + [Identity()] * identity
    some += [Pair(measure) for measure in MEASURES] * pairs
    return {metric.names[0]: metric for metric in some}


def l1(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference [N] of images uint8 [N, C, H, W], in units of [0, 1]."""
    return (a.double() - b.double()).abs().mean((1, 2, 3)) / 255


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """10 log10(255^2 / MSE), [N], of uint8 [N, C, H, W]; an MSE below 1/12 (rounding) is 1/12."""
    mse = (a.double() - b.double()).square().mean((1, 2, 3))
    return 10 * torch.log10(255**2 / mse.clamp(min=LEAST_MSE))


MEASURES = {"l1": l1, "psnr": psnr, "ssim": ssim}
