"""Multi-scale structural similarity between the images of one set: a measure of diversity."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ganzoo.config.values import Count
from ganzoo.metrics.base import ImageSamples, filtered

_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_CHUNK = 64  # pairs at a time


class MSSSIM(ImageSamples):
    """Mean MS-SSIM of pairs of fakes, and of pairs of reals: less is more diverse.

    Odena et al. 2017, section 4.2, as in the official PGGAN code (10,000 pairs). A pair are the
    images numbered 2i and 2i + 1; a last image without a partner is left out. The value is
    {"ms_ssim": of fakes, "ms_ssim_real": of reals}; the fakes' should not exceed the reals' by
    much.

    Args:
        num_pairs: number of pairs to use; None for all.
    """

    higher_is_better = False
    names = ("ms_ssim", "ms_ssim_real")
    limit = "num_pairs"
    least_size = 16  # of five scales, each half of the one before

    def __init__(self, num_pairs: Count | None = None) -> None:
        super().__init__(None if num_pairs is None else 2 * num_pairs)
        self.num_pairs = num_pairs

    def compute(self) -> dict[str, Tensor]:
        real, fake = self.ordered(True), self.ordered(False)
        self.check_counts(len(real), len(fake))
        return {"ms_ssim": _of_pairs(fake), "ms_ssim_real": _of_pairs(real)}


def _of_pairs(images: Tensor) -> Tensor:
    """Mean MS-SSIM of the first image and the second, the third and the fourth, and so on."""
    images = images[: len(images) // 2 * 2]
    pairs = zip(images[0::2].split(_CHUNK), images[1::2].split(_CHUNK), strict=True)
    return torch.cat([ms_ssim(a.double(), b.double()) for a, b in pairs]).mean()


def ms_ssim(a: Tensor, b: Tensor) -> Tensor:
    """MS-SSIM [N], in [0, 1], of each image in a and the one in b.

    Wang et al. 2003, section 3, in TensorFlow's variant. Images are [N, C, H, W], 0...255, float64,
    at least 16 pixels high and wide.
    """
    result = torch.ones_like(a[:, 0, 0, 0])
    for weight in _WEIGHTS[:-1]:
        _, contrast = _similarity(a, b)
        result = result * contrast.clamp(min=0) ** weight
        # Means of 2 x 2 pixels; an odd last row or column is repeated.
        a, b = (F.avg_pool2d(images, 2, ceil_mode=True) for images in (a, b))
    similarity, _ = _similarity(a, b)
    return result * similarity.clamp(min=0) ** _WEIGHTS[-1]


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """SSIM [N], in [-1, 1], of each image in a and the one in b.

    Wang et al. 2004: the mean over channels and all places where the window of 11 pixels fits; in
    images that are smaller it is as large as they are. Images are [N, C, H, W], 0...255.
    """
    return _similarity(a.double(), b.double())[0]


def _similarity(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """SSIM and its contrast-structure factor, each averaged over each image, [N]."""
    # In small images the window shrinks, and its sigma with it.
    size = min(11, *a.shape[2:])
    sigma = 1.5 * size / 11
    x = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    taps = (-x.square() / (2 * sigma**2)).softmax(0).tolist()
    mean_a, mean_b, square_a, square_b, product = (
        filtered(images, taps) for images in (a, b, a * a, b * b, a * b)
    )
    var_a, var_b = square_a - mean_a**2, square_b - mean_b**2
    cov = product - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    contrast = (2 * cov + c2) / (var_a + var_b + c2)
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return (luminance * contrast).mean((1, 2, 3)), contrast.mean((1, 2, 3))
