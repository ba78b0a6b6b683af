"""What the networks of two models have in common."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ganzoo.errors import UserError


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A convolution that keeps the size, for odd kernels."""
    return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)


def fused_up(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A convolution of `enlarged(x)`, 3x3, as one transposed convolution: each pixel of x is seen
    through 4x4 weights.
    """
    # A transposed convolution lays its kernel down unflipped, where a convolution reads it.
    kernel = 4 * widened(weight).flip(2, 3).transpose(0, 1)
    return F.conv_transpose2d(x, kernel, bias, stride=2, padding=1)


def fused_down(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolution, average pooling and then the bias, as one convolution of stride 2."""
    return F.conv2d(x, widened(weight), bias, stride=2, padding=1)


def widened(weight: Tensor) -> Tensor:
    """3x3 kernels averaged over the four positions of a 2x2 pixel: 4x4 kernels."""
    rows = F.pad(weight, (0, 0, 0, 1)) + F.pad(weight, (0, 0, 1, 0))
    return (F.pad(rows, (0, 1)) + F.pad(rows, (1, 0))) / 4


def halved_grid(
    image_size: int | Sequence[int], least: int, times: int
) -> tuple[tuple[int, int], int]:
    """The grid, (height, width), that images are halved down to, and after how many halvings.

    Height and width are halved together while both are even and neither falls below `least`.

    Raises:
        UserError: fewer than `times` halvings, or a shorter side that is then not `least` to 7 (or
            2 `least` - 1, if that is more).
    """
    sides = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(sides) != 2 or min(sides) < 1:
        raise UserError(
            f"image_size={image_size} is no size: give one number or [height, width], in pixels."
        )
    height, width = sides
    if not _fits(height, width, least, times):
        sizes = " or ".join(f"{h}x{w}" for h, w in _nearest(height, width, least, times)[:2])
        raise UserError(
            f"images of {height}x{width} cannot be halved down to a grid of {least} to "
            f"{_most(least)} pixels: "
            f"use {sizes} (height x width)."
        )
    return _halved(height, width, least)


def _halved(height: int, width: int, least: int) -> tuple[tuple[int, int], int]:
    halvings = 0
    while height % 2 == 0 and width % 2 == 0 and min(height, width) >= 2 * least:
        height, width, halvings = height // 2, width // 2, halvings + 1
    return (height, width), halvings


def _fits(height: int, width: int, least: int, times: int) -> bool:
    grid, halvings = _halved(height, width, least)
    return halvings >= times and least <= min(grid) <= _most(least)


def _most(least: int) -> int:
    return max(7, 2 * least - 1)


def _nearest(height: int, width: int, least: int, times: int) -> list[tuple[int, int]]:
    """Sizes that fit, the nearest first; squares only for a square."""

    def multiples(side: int, scale: int) -> set[int]:
        return {scale * max(least, side // scale), scale * max(least, -(-side // scale))}

    found = {
        (h, w)
        for scale in (2**k for k in range(times, 12))
        for h in multiples(height, scale)
        for w in multiples(width, scale)
        if _fits(h, w, least, times) and (h == w or height != width)
    }
    return sorted(found, key=lambda size: (abs(size[0] - height) + abs(size[1] - width), size))


def normal_init(module: nn.Module) -> None:
    """Weights N(0, 0.02), BatchNorm's gains N(1, 0.02), biases 0 (DCGAN, CycleGAN)."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def shrunk(images: Tensor, lod: float, size: tuple[int, int]) -> Tensor:
    """Images [N, C, H, W] as the networks see them at a level of detail, [N, C, *size].

    Means over boxes, faded towards those over boxes of twice the side by the rest of the lod
    (Karras et al. 2018, figure 2; the official `process_reals`).
    """
    if (box := images.shape[-1] // size[1]) > 1:
        images = F.avg_pool2d(images, box)
    if rest := lod - int(lod):
        images = images.lerp(enlarged(F.avg_pool2d(images, 2), 2), rest)
    return images


def enlarged(images: Tensor, times: int = 2) -> Tensor:
    """Every pixel of images [N, C, H, W] as a box of `times` x `times`."""
    return images if times == 1 else F.interpolate(images, scale_factor=times)
