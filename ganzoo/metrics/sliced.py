"""The sliced Wasserstein distance between patches of two sets of images (Karras et al. 2018)."""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ganzoo.config.values import Count, Seed
from ganzoo.draws import seed_of
from ganzoo.metrics.base import ImageSamples, filtered

_PATCH = 7  # pixels
_TAPS = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
_CHUNK = 256  # images at a time


class SlicedWasserstein(ImageSamples):
    """Sliced Wasserstein distance between patches of Laplacian pyramids, times 1000.

    Karras et al. 2018, section 5 and the official code. The value is {"swd": mean over the levels,
    "swd_64": ..., "swd_32": ..., "swd_16": ...}, each level named by its smaller side, in pixels;
    smaller is better. If there are more images of one kind, only the first ones are used. Patches
    of reals and fakes are at the same places.

    Args:
        num: number of images to use (16384 in the paper); None for all.
        patches: number of patches of 7 x 7 pixels from each image at each level.
        repeats, directions: numbers whose product is the number of random projections.
        seed: random seed of the places and the projections.
    """

    higher_is_better = False
    names = ("swd",)
    limit = "num"
    least_size = 16

    def __init__(
        self,
        num: Count | None = None,
        patches: Count = 128,
        repeats: Count = 4,
        directions: Count = 128,
        seed: Seed = 0,
    ) -> None:
        super().__init__(num)
        self.patches, self.repeats, self.directions, self.seed = patches, repeats, directions, seed

    def compute(self) -> dict[str, Tensor]:
        sets = [self.ordered(real) for real in (True, False)]
        n = min(len(sets[0]), len(sets[1]))
        self.check_counts(len(sets[0]), len(sets[1]))
        sizes = [sets[0].shape[2:]]
        while min(half := torch.Size((side + 1) // 2 for side in sizes[-1])) >= self.least_size:
            sizes.append(half)
        values = {}
        for level, size in enumerate(sizes):
            generator = Generator().manual_seed(seed_of("swd", self.seed, level))
            places = [
                torch.randint(side - _PATCH + 1, (n, self.patches), generator=generator)
                for side in size
            ]
            last = level == len(sizes) - 1
            real, fake = (_descriptors(images[:n], level, last, *places) for images in sets)
            directions = torch.randn(
                self.repeats * self.directions, real.shape[1], generator=generator
            )
            directions = F.normalize(directions.to(real))
            values[f"swd_{min(size)}"] = 1000 * sliced_wasserstein(real, fake, directions)
        return {"swd": torch.stack([*values.values()]).mean(), **values}


def sliced_wasserstein(a: Tensor, b: Tensor, directions: Tensor) -> Tensor:
    """Mean 1-Wasserstein distance of two equally large sets, [N, D] each, along unit vectors
    [directions, D], a scalar.
    """
    distances = []
    with torch.autocast(a.device.type, enabled=False):
        # A few at a time: sorting takes memory for several copies of what it sorts.
        for some in directions.split(8):
            sorted_a, sorted_b = ((some @ x.T).sort().values for x in (a, b))
            distances.append((sorted_a - sorted_b).abs().mean(1))
    return torch.cat(distances).mean()


def _descriptors(images: Tensor, level: int, last: bool, y: Tensor, x: Tensor) -> Tensor:
    """Patches at y, x [N, patches] of one level of the images' pyramids, normalized over all of
    them per channel: [N * patches, C * 7 * 7] float32.
    """
    chunks = []
    for part, y_part, x_part in zip(*(t.split(_CHUNK) for t in (images, y, x)), strict=True):
        windows = _laplacian(part.double(), level, last).unfold(2, _PATCH, 1).unfold(3, _PATCH, 1)
        image = torch.arange(len(part))[:, None]
        chunks.append(windows[image, :, y_part, x_part].flatten(0, 1).float())
    patches = torch.cat(chunks)
    std, mean = torch.std_mean(patches, (0, 2, 3), correction=0, keepdim=True)
    # Images of one flat color have no contrast to divide by.
    return patches.sub_(mean).div_(std.clamp(min=1e-6)).flatten(1)


def _laplacian(images: Tensor, level: int, last: bool) -> Tensor:
    """One level of the Laplacian pyramid of images [N, C, H, W]; the last is what remains."""
    for _ in range(level):
        images = _down(images)
    return images if last else images - _up(_down(images), images)


def _down(images: Tensor) -> Tensor:
    return _blur(images)[:, :, ::2, ::2]


def _up(images: Tensor, like: Tensor) -> Tensor:
    spread = torch.zeros_like(like)
    spread[:, :, ::2, ::2] = 4 * images
    return _blur(spread)


def _blur(images: Tensor) -> Tensor:
    """Filter with the 5 x 5 binomial; borders are mirrored without the edge itself."""
    return filtered(F.pad(images, (2, 2, 2, 2), mode="reflect"), _TAPS)
