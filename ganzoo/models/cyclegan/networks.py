"""The CycleGAN networks (Zhu et al. 2017, appendix 7.2), as in the authors' PyTorch code.

Generators map images of any height and width to images of the same: what does not halve evenly is
padded by reflection and cropped again. Discriminators give a map of logits, one for each patch.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ganzoo.config.values import Count, Layers, Share
from ganzoo.errors import UserError, check_choice
from ganzoo.nn.layers import normal_init

Norm = Literal["instance", "batch", "none"]
Padding = Literal["reflect", "zeros"]


class ResNetGenerator(nn.Module):
    """Images [N, inputs, H, W] -> images [N, outputs, H, W] in [-1, 1].

    Two convolutions halve the image, residual blocks follow, two transposed convolutions double it
    again. Only the outer convolutions and those of the blocks pad by reflection.

    Args:
        ngf: filters at full size; twice as many with each halving.
        blocks: residual blocks; the authors take 9, and 6 for images of 128 pixels or fewer.
        halvings: 2 as published.
        norm: "instance" (without parameters), "batch" or "none".
        dropout: probability of dropping a feature inside the blocks.
    """

    def __init__(
        self,
        inputs: Count = 3,
        outputs: Count = 3,
        ngf: Count = 64,
        blocks: Layers = 9,
        halvings: Layers = 2,
        norm: Norm = "instance",
        dropout: Share = 0.0,
    ) -> None:
        super().__init__()
        # Reflection needs two pixels where the image is smallest.
        self.multiple, self.least = 2**halvings, 2 ** (halvings + 1)
        bias = norm != "batch"
        widths = [ngf * 2**i for i in range(halvings + 1)]
        first = nn.Conv2d(inputs, ngf, 7, padding=3, padding_mode="reflect", bias=bias)
        layers = normalized(first, norm)
        for narrow, wide in pairwise(widths):
            layers += normalized(nn.Conv2d(narrow, wide, 3, 2, 1, bias=bias), norm)
        layers += [Residual(widths[-1], norm, dropout, bias) for _ in range(blocks)]
        for wide, narrow in pairwise(reversed(widths)):
            double = nn.ConvTranspose2d(wide, narrow, 3, 2, 1, output_padding=1, bias=bias)
            layers += normalized(double, norm)
        layers += [nn.Conv2d(ngf, outputs, 7, padding=3, padding_mode="reflect"), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        self.apply(normal_init)

    def forward(self, images: Tensor) -> Tensor:
        return at_any_size(self.layers, images, self.multiple, self.least)


class Residual(nn.Module):
    """x + two convolutions of x, without an activation after the sum."""

    def __init__(
        self, width: int, norm: Norm, dropout: float, bias: bool, padding: Padding = "reflect"
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *normalized(
                nn.Conv2d(width, width, 3, padding=1, padding_mode=padding, bias=bias), norm
            ),
            nn.Dropout(dropout) if dropout else nn.Identity(),
            nn.Conv2d(width, width, 3, padding=1, padding_mode=padding, bias=bias),
            normalization(norm, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class UNetGenerator(nn.Module):
    """Images [N, inputs, H, W] -> images [N, outputs, H, W] in [-1, 1], with skip connections.

    Args:
        ngf: filters after the first halving; twice as many with each one after it, up to 8 ngf.
        halvings: 7 for the authors' `unet_128`, 8 for `unet_256`: down to one pixel.
        norm: "instance" (without parameters), "batch" or "none".
        dropout: probability of dropping a feature of the inner layers of 8 ngf filters.
    """

    def __init__(
        self,
        inputs: Count = 3,
        outputs: Count = 3,
        ngf: Count = 64,
        halvings: Layers = 8,
        norm: Norm = "instance",
        dropout: Share = 0.0,
    ) -> None:
        super().__init__()
        if halvings < 2:
            raise UserError(f"A U-Net of {halvings} halvings has no skips: give it 2 or more.")
        self.multiple = self.least = 2**halvings
        bias = norm != "batch"
        widths = [ngf * min(2**i, 8) for i in range(halvings)]
        self.down = nn.ModuleList([nn.Conv2d(inputs, ngf, 4, 2, 1, bias=bias)])
        for i in range(1, halvings):
            layers = [
                nn.LeakyReLU(0.2),
                nn.Conv2d(widths[i - 1], widths[i], 4, 2, 1, bias=bias),
                normalization(norm if i < halvings - 1 else "none", widths[i]),
            ]
            self.down.append(nn.Sequential(*layers))
        self.up = nn.ModuleList()
        for i in reversed(range(1, halvings)):
            wide = widths[i] if i == halvings - 1 else 2 * widths[i]  # with a skip
            layers = [
                nn.ReLU(inplace=True),
                nn.ConvTranspose2d(wide, widths[i - 1], 4, 2, 1, bias=bias),
                normalization(norm, widths[i - 1]),
            ]
            if dropout and 4 <= i < halvings - 1:
                layers.append(nn.Dropout(dropout))
            self.up.append(nn.Sequential(*layers))
        self.up.append(
            nn.Sequential(
                nn.ReLU(inplace=True), nn.ConvTranspose2d(2 * ngf, outputs, 4, 2, 1), nn.Tanh()
            )
        )
        self.apply(normal_init)

    def forward(self, images: Tensor) -> Tensor:
        return at_any_size(self._forward, images, self.multiple, self.least)

    def _forward(self, x: Tensor) -> Tensor:
        skips = []
        for down in self.down:
            x = down(x)
            skips.append(x)
        x = skips.pop()
        for up in self.up:
            x = up(x)
            if skips:
                x = torch.cat([skips.pop(), x], 1)
        return x


class PatchDiscriminator(nn.Module):
    """Images [N, inputs, H, W] -> a map of logits, [N, 1, H', W'], one for each patch.

    Three layers judge patches of 70x70: 30x30 of them in 256x256. Images must have at least
    `least` pixels on each side.

    Args:
        ndf: filters of the first layer; twice as many with each one after it, up to 8 ndf.
        layers: convolutions that halve the image.
        norm: "instance" (without parameters), "batch" or "none"; never after the first layer.
    """

    def __init__(
        self, inputs: Count = 3, ndf: Count = 64, layers: Layers = 3, norm: Norm = "instance"
    ) -> None:
        super().__init__()
        self.least = 3 * 2**layers
        bias = norm != "batch"
        stack: list[nn.Module] = [nn.Conv2d(inputs, ndf, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
        width = ndf
        for i in range(1, layers + 1):
            wide = ndf * min(2**i, 8)
            conv = nn.Conv2d(width, wide, 4, 2 if i < layers else 1, 1, bias=bias)
            stack += normalized(conv, norm, nn.LeakyReLU(0.2, inplace=True))
            width = wide
        stack.append(nn.Conv2d(width, 1, 4, 1, 1))
        self.layers = nn.Sequential(*stack)
        self.apply(normal_init)

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        if min(height, width) < self.least:
            raise UserError(
                f"Images of {height}x{width} are too small for this discriminator, which needs "
                f"{self.least} pixels a side: lower model.discriminator.layers."
            )
        return self.layers(images)


class PixelDiscriminator(nn.Module):
    """Images [N, inputs, H, W] -> a logit for every pixel, [N, 1, H, W], by its colors alone.

    Args:
        ndf: filters of the first layer, half of the second's.
        norm: "instance" (without parameters), "batch" or "none".
    """

    def __init__(self, inputs: Count = 3, ndf: Count = 64, norm: Norm = "instance") -> None:
        super().__init__()
        bias = norm != "batch"
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, ndf, 1),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(ndf, 2 * ndf, 1, bias=bias),
            normalization(norm, 2 * ndf),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(2 * ndf, 1, 1, bias=bias),
        )
        self.apply(normal_init)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


# -- a small CycleGAN for 128 pixels: 4x4 kernels, zero padding, BatchNorm, no biases ------------


class SmallGenerator(nn.Module):
    """Images [N, inputs, H, W] -> images [N, outputs, H, W] in [-1, 1].

    Args:
        ngf: filters after the first halving; twice as many with each one after it.
        halvings: by convolutions of 4x4, undone by transposed ones.
        norm: "batch", "instance" (without parameters) or "none"; not after the last layer.
        dropout: probability of dropping a feature inside the blocks.
    """

    def __init__(
        self,
        inputs: Count = 3,
        outputs: Count = 3,
        ngf: Count = 64,
        blocks: Layers = 6,
        halvings: Layers = 3,
        norm: Norm = "batch",
        dropout: Share = 0.0,
    ) -> None:
        super().__init__()
        self.multiple = 2**halvings
        widths = [ngf * 2**i for i in range(halvings)]
        layers: list[nn.Module] = []
        for narrow, wide in pairwise([inputs, *widths]):
            layers += normalized(nn.Conv2d(narrow, wide, 4, 2, 1, bias=False), norm)
        layers += [
            Residual(widths[-1], norm, dropout, bias=False, padding="zeros") for _ in range(blocks)
        ]
        for wide, narrow in pairwise(reversed(widths)):
            layers += normalized(nn.ConvTranspose2d(wide, narrow, 4, 2, 1, bias=False), norm)
        layers += [nn.ConvTranspose2d(ngf, outputs, 4, 2, 1, bias=False), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        self.apply(normal_init)

    def forward(self, images: Tensor) -> Tensor:
        return at_any_size(self.layers, images, self.multiple, self.multiple)


class SmallDiscriminator(nn.Module):
    """Images [N, inputs, H, W] -> a map of logits, [N, 1, H', W']: 7x7 of them for 128x128.

    Args:
        ndf: filters of the first layer; twice as many with each one after it.
        layers: convolutions of 4x4 that halve the image.
        norm: "batch", "instance" (without parameters) or "none"; never after the first layer.
    """

    def __init__(
        self, inputs: Count = 3, ndf: Count = 64, layers: Layers = 4, norm: Norm = "batch"
    ) -> None:
        super().__init__()
        widths = [ndf * 2**i for i in range(layers)]
        first = nn.Conv2d(inputs, ndf, 4, 2, 1, bias=False)
        stack: list[nn.Module] = [first, nn.ReLU(inplace=True)]
        for narrow, wide in pairwise(widths):
            stack += normalized(nn.Conv2d(narrow, wide, 4, 2, 1, bias=False), norm)
        stack.append(nn.Conv2d(widths[-1], 1, 4, 1, 1, bias=False))
        self.layers = nn.Sequential(*stack)
        self.apply(normal_init)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


# -- what they are made of -------------------------------------------------------------------------


def normalization(norm: Norm, width: int) -> nn.Module:
    """Instance normalization without parameters, BatchNorm, or nothing; UserError for others."""
    if norm == "instance":
        return nn.InstanceNorm2d(width)
    if norm == "batch":
        return nn.BatchNorm2d(width)
    check_choice("norm", norm, ["instance", "batch", "none"])
    return nn.Identity()


def normalized(
    convolution: nn.Conv2d | nn.ConvTranspose2d, norm: Norm, activation: nn.Module | None = None
) -> list[nn.Module]:
    """A convolution, its normalization and its activation (None: ReLU)."""
    maps = convolution.out_channels
    return [convolution, normalization(norm, maps), activation or nn.ReLU(inplace=True)]


def at_any_size(
    network: Callable[[Tensor], Tensor], images: Tensor, multiple: int, least: int
) -> Tensor:
    """`network(images)` for a network whose height and width have to be multiples of a number.

    Images of other sizes, or smaller than `least`, are padded by reflection, evenly on both sides,
    and what comes out is cropped to their size.
    """
    height, width = images.shape[-2:]
    # While the network is exported for any size, sizes are symbols. There, nothing may depend on
    # whether they fit: the graph would keep the answer for the size that it was traced with.
    exporting = torch.compiler.is_exporting()
    # Rounded up by a quotient of positive numbers: ONNX rounds negative ones towards 0.
    fitting = [(side + multiple - 1) // multiple * multiple for side in (height, width)]
    goals: list[Any] = [torch.sym_max(least, side) for side in fitting]
    if not exporting and goals == [height, width]:
        return network(images)
    rows, columns = (_reflected(s, g) for s, g in zip((height, width), goals, strict=True))
    padded = images[..., rows.to(images.device), :][..., columns.to(images.device)]
    made = network(padded)
    top, left = (goals[0] - height) // 2, (goals[1] - width) // 2
    if exporting:  # a slice would ask whether it is all of the image
        made = made.index_select(-2, torch.arange(height, device=made.device) + top)
        return made.index_select(-1, torch.arange(width, device=made.device) + left)
    return made[..., top : top + height, left : left + width]


def _reflected(side: int, goal: int) -> Tensor:
    """For each of `goal` places, the pixel of `side` to put there; the image is in the middle."""
    start = (goal - side) // 2
    # There and back again; as a tensor, since ONNX knows no remainder by a symbol.
    period = torch.full((), torch.sym_max(1, 2 * (side - 1)))
    places = torch.arange(-start, goal - start).remainder(period)
    return side - 1 - (side - 1 - places).abs()
