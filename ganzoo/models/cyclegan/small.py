"""A small CycleGAN for 128 pixels: 4x4 kernels, zero padding, BatchNorm, no biases."""

from itertools import pairwise

from torch import Tensor, nn

from ganzoo.models.cyclegan.networks import Norm, Residual, at_any_size, normalized
from ganzoo.nn.layers import normal_init


class SmallGenerator(nn.Module):
    """Images [N, inputs, H, W] -> images [N, outputs, H, W] in [-1, 1].

    Args:
        inputs, outputs: channels.
        ngf: filters after the first halving; twice as many with each one after it.
        blocks: residual blocks.
        halvings: by convolutions of 4x4, undone by transposed ones.
        norm: "batch", "instance" (without parameters) or "none"; not after the last layer.
        dropout: probability of dropping a feature inside the blocks.
    """

    def __init__(
        self,
        inputs: int = 3,
        outputs: int = 3,
        ngf: int = 64,
        blocks: int = 6,
        halvings: int = 3,
        norm: Norm = "batch",
        dropout: float = 0.0,
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
        inputs: channels.
        ndf: filters of the first layer; twice as many with each one after it.
        layers: convolutions of 4x4 that halve the image.
        norm: "batch", "instance" (without parameters) or "none"; never after the first layer.
    """

    def __init__(
        self, inputs: int = 3, ndf: int = 64, layers: int = 4, norm: Norm = "batch"
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
