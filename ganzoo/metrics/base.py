"""What the metrics share: a real and a fake side, and samples in the order of their numbers.

All sums are float64. Samples that are kept until the end are sorted by their numbers, so a value
depends neither on batches nor on processes. With several processes, each must have seen at least
one batch of either kind.
"""

from collections.abc import Sequence
from copy import copy
from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from ganzoo.errors import UserError


def float64_device(device: torch.device) -> torch.device:
    """The device itself, or the CPU instead of one without float64, such as Apple's GPUs."""
    return torch.device("cpu") if device.type == "mps" else device


class SuiteMetric(Metric):
    """A metric that `Suite` can compute.

    Its `update` takes some of `features`, `logits`, `images` and `index`, by these names. A metric
    of real images, too, takes `real` and is a `TwoSets`. `compute` raises UserError if there are
    too few samples, or numbers that are not finite.
    """

    is_differentiable = False
    full_state_update = False
    names: tuple[str, ...] = ()  # of its values, if `compute` returns a dict
    limit = ""  # the argument of the constructor that lowers `least`, if there is one

    @property
    def least(self) -> int:
        """Number of images of either kind that it needs."""
        return 2

    def expect(self, fakes: int) -> None:
        """Prepare for a number of fakes."""


class TwoSets(SuiteMetric):
    """A metric whose states come in pairs, `real_*` and `fake_*`.

    With `keep_real`, `reset` forgets only the fakes. Use `update`, not `forward`, which resets the
    metric for each batch.
    """

    keep_real = False

    def add_states(self, name: str, default: Any, reduction: Literal["sum", "cat"]) -> None:
        for side in ("real", "fake"):
            # Both sides would share a list, because `add_state` does not copy it.
            self.add_state(f"{side}_{name}", copy(default), dist_reduce_fx=reduction)

    def side(self, name: str, real: bool) -> Any:
        """The state `name` of reals or of fakes."""
        return getattr(self, f"{'real' if real else 'fake'}_{name}")

    def reset(self) -> None:
        states = {n: getattr(self, n) for n in self._defaults if n.startswith("real_")}
        # Lists are copied because the reset empties them in place.
        kept = {n: s if isinstance(s, Tensor) else list(s) for n, s in states.items()}
        super().reset()
        if self.keep_real:
            for name, state in kept.items():
                setattr(self, name, state)

    def check_counts(self, reals: int, fakes: int) -> None:
        """Raises UserError unless both sides have at least `least` samples."""
        if min(reals, fakes) < self.least:
            lower = f" or lower {self.limit}" if self.limit else ""
            raise UserError(
                f"{type(self).__name__} needs at least {self.least} real and {self.least} fake "
                f"samples, but has seen {reals} and {fakes}: use more images{lower}."
            )


class Samples(TwoSets):
    """A metric that holds all samples, of any shape, until `compute`."""

    def __init__(self) -> None:
        super().__init__()
        self.add_states("samples", [], "cat")
        self.add_states("index", [], "cat")

    def keep(self, samples: Tensor, index: Tensor, real: bool) -> None:
        """Keep samples and their numbers within their set, int64 [N]."""
        self.side("samples", real).append(samples.detach().to(self.device))
        self.side("index", real).append(index.to(self.device))

    def ordered(self, real: bool) -> Tensor:
        """All samples of a side in the order of their numbers; an empty tensor if none."""
        if len(samples := self.side("samples", real)) == 0:
            return torch.empty(0)
        order = dim_zero_cat(self.side("index", real)).argsort()
        return dim_zero_cat(samples)[order]


class FeatureSamples(Samples):
    """A metric of all features."""

    def update(self, features: Tensor, index: Tensor, real: bool) -> None:
        """Add features [N, D] of reals or fakes, numbered by `index` [N]."""
        self.keep(features.float(), index, real)

    def both(self) -> tuple[Tensor, Tensor]:
        """Features of reals and of fakes, float64. Raises UserError if too few or not finite."""
        real, fake = (self.ordered(side).double() for side in (True, False))
        self.check_counts(len(real), len(fake))
        check_finite(self, real, fake)
        return real, fake


class ImageSamples(Samples):
    """A metric of images of at least `least_size` pixels a side.

    With `num`, only the images numbered 0 to num - 1 are kept.
    """

    least_size: int

    @property
    def least(self) -> int:
        return self.num or 2

    def __init__(self, num: int | None = None) -> None:
        super().__init__()
        self.num = num

    def update(self, images: Tensor, index: Tensor, real: bool) -> None:
        """Add images, uint8 [N, C, H, W], reals or fakes, numbered by `index` [N]."""
        if min(images.shape[2:]) < self.least_size:
            raise UserError(
                f"{type(self).__name__} needs images of at least {self.least_size} x "
                f"{self.least_size} pixels, but got {images.shape[2]} x {images.shape[3]}: leave "
                "this metric out."
            )
        index = index.to(images.device)
        if self.num is not None:
            images, index = images[index < self.num], index[index < self.num]
        self.keep(images, index, real)


def check_finite(metric: Metric, *tensors: Tensor) -> None:
    """Raises UserError unless all numbers are finite."""
    if not all(tensor.isfinite().all() for tensor in tensors):
        raise UserError(
            f"{type(metric).__name__} got features that are not finite: look for NaN in the images "
            f"or overflow in the feature network."
        )


def filtered(images: Tensor, taps: Sequence[float]) -> Tensor:
    """Images [N, C, H, W] filtered along both axes with symmetric taps, without padding."""
    # Shifts and sums are faster than PyTorch's convolution of float64.
    for dim in (2, 3):
        size = images.shape[dim] - len(taps) + 1
        shifted = (tap * images.narrow(dim, i, size) for i, tap in enumerate(taps))
        images = sum(shifted, start=images.new_zeros(()))
    return images
