"""Layers and sizes that the networks of several models share."""

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ganzoo.errors import UserError


class NoDiscriminator(nn.Module):
    """Takes the discriminator's place in a model that has none, and so can only be sampled."""

    def __init__(self, classes: int = 0) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, images: Tensor, *_: object) -> Tensor:
        raise UserError("This model has no discriminator: it can only be sampled.")


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A convolution that keeps the size, for odd kernels."""
    return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)


def fused_up(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 3x3 convolution of `enlarged(x)` as one 4x4 transposed convolution of x.

    It gives equal values with fewer multiplications, as the official PGGAN code does.
    """
    # A transposed convolution writes its kernel unflipped where a convolution reads it.
    kernel = 4 * widened(weight).flip(2, 3).transpose(0, 1)
    return F.conv_transpose2d(x, kernel, bias, stride=2, padding=1)


def fused_down(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolution, average pooling and then the bias, as one convolution of stride 2."""
    return F.conv2d(x, widened(weight), bias, stride=2, padding=1)


def widened(weight: Tensor) -> Tensor:
    """The mean of 3x3 kernels shifted to the four positions in a 2x2 box: 4x4 kernels."""
    rows = F.pad(weight, (0, 0, 0, 1)) + F.pad(weight, (0, 0, 1, 0))
    return (F.pad(rows, (0, 1)) + F.pad(rows, (1, 0))) / 4


def halved_grid(
    image_size: int | Sequence[int], least: int, times: int
) -> tuple[tuple[int, int], int]:
    """The smallest grid, (height, width), of networks for images, and how often they are halved.

    Height and width are halved together while both are even and neither falls below `least`.

    Raises UserError: fewer than `times` halvings are possible, or the shorter side of the grid is
    larger than max(7, 2 `least` - 1).
    """
    sides = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(sides) != 2 or min(sides) < 1:
        raise UserError(
            f"image_size={image_size} is not a size: use one number or [height, width], in pixels."
        )
    height, width = sides
    halvings = 0
    while height % 2 == 0 and width % 2 == 0 and min(height, width) >= 2 * least:
        height, width, halvings = height // 2, width // 2, halvings + 1
    most = max(7, 2 * least - 1)
    if halvings < times or not least <= min(height, width) <= most:
        # Whole multiples of a power of two fit if the shorter side is `least` to `most` of it.
        unit = 2**times
        while min(sides) // unit > most:
            unit *= 2
        near = "x".join(str(unit * max(least, side // unit)) for side in sides)
        raise UserError(
            f"Images of {sides[0]}x{sides[1]} cannot be halved down to a grid of {least} to {most} "
            f"pixels: use {near} (height x width)."
        )
    return (height, width), halvings


def normal_init(module: nn.Module) -> None:
    """Initialize weights by N(0, 0.02), BatchNorm's gains by N(1, 0.02), biases by 0.

    The initialization of DCGAN's and CycleGAN's official code.
    """
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
    initialize(module, lambda weight: nn.init.normal_(weight, 0.0, 0.02))


def initialize(module: nn.Module, weights: Callable[[Tensor], Tensor]) -> None:
    """Initialize the weights of a convolution or a linear layer by a function, its biases by 0."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        weights(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def shrunk(images: Tensor, lod: float, size: tuple[int, int]) -> Tensor:
    """Images [N, C, H, W] as the networks see them at a level of detail, [N, C, *size].

    Images are averaged over boxes. At a fractional lod they are blended with their own lower
    resolution, so that reals are as sharp as fakes are (Karras et al. 2018, figure 2; the official
    `process_reals`).
    """
    if (box := images.shape[-1] // size[1]) > 1:
        images = F.avg_pool2d(images, box)
    if rest := lod - int(lod):
        images = images.lerp(enlarged(F.avg_pool2d(images, 2), 2), rest)
    return images


def enlarged(images: Tensor, times: int = 2) -> Tensor:
    """Images [N, C, H, W] with each pixel repeated `times` x `times`."""
    return images if times == 1 else F.interpolate(images, scale_factor=times)
