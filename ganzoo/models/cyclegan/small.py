"""A small CycleGAN for 128 pixels: 4x4 kernels, zero padding, batch normalization."""

from itertools import pairwise

from torch import Tensor, nn

from ganzoo.layers import normal_init
from ganzoo.models.cyclegan.networks import at_any_size


class SmallGenerator(nn.Module):
    """Images [N, inputs, H, W] -> images [N, outputs, H, W] in [-1, 1].

    Args:
        inputs, outputs: channels.
        ngf: filters after the first of three halvings; twice as many with each one after it.
        blocks: residual blocks.
    """

    def __init__(self, inputs: int = 3, outputs: int = 3, ngf: int = 64, blocks: int = 6) -> None:
        super().__init__()
        widths = [ngf, 2 * ngf, 4 * ngf]
        layers: list[nn.Module] = []
        for narrow, wide in pairwise([inputs, *widths]):
            layers += [
                nn.Conv2d(narrow, wide, 4, 2, 1, bias=False),
                nn.BatchNorm2d(wide),
                nn.ReLU(inplace=True),
            ]
        layers += [SmallResidual(widths[-1]) for _ in range(blocks)]
        for wide, narrow in pairwise(reversed(widths)):
            layers += [
                nn.ConvTranspose2d(wide, narrow, 4, 2, 1, bias=False),
                nn.BatchNorm2d(narrow),
                nn.ReLU(inplace=True),
            ]
        layers += [nn.ConvTranspose2d(ngf, outputs, 4, 2, 1, bias=False), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        self.apply(normal_init)

    def forward(self, images: Tensor) -> Tensor:
        return at_any_size(self.layers, images, multiple=8, least=8)


class SmallResidual(nn.Module):
    """x + two convolutions of x, without an activation after the sum."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class SmallDiscriminator(nn.Module):
    """Images [N, inputs, H, W] -> a map of logits, [N, 1, H', W']: 7x7 of them for 128x128.

    Args:
        inputs: channels.
        ndf: filters of the first of four halvings; twice as many with each one after it.
    """

    def __init__(self, inputs: int = 3, ndf: int = 64) -> None:
        super().__init__()
        widths = [ndf, 2 * ndf, 4 * ndf, 8 * ndf]
        layers: list[nn.Module] = [
            nn.Conv2d(inputs, ndf, 4, 2, 1, bias=False),
            nn.ReLU(inplace=True),
        ]
        for narrow, wide in pairwise(widths):
            layers += [
                nn.Conv2d(narrow, wide, 4, 2, 1, bias=False),
                nn.BatchNorm2d(wide),
                nn.ReLU(inplace=True),
            ]
        layers.append(nn.Conv2d(widths[-1], 1, 4, 1, 1, bias=False))
        self.layers = nn.Sequential(*layers)
        self.apply(normal_init)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)
