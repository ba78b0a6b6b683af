"""The DCGAN networks (Radford et al. 2016, figure 1 and section 3), at any size that halves well.

Two layouts are in use and both are here: that of dcgan.torch and of PyTorch's own example, 4x4
kernels and 64 filters (the defaults), and that of the paper's code, 5x5 kernels, 128 filters and
an eps of 1e-8, with `projection=True` in the generator.
"""

from functools import partial
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

from ganzoo.config.values import Count, NotNegative, Sides
from ganzoo.errors import check_choice
from ganzoo.nn.layers import halved_grid, normal_init

Norm = Literal["batch", "layer", "none"]

# 4x4 for any power of two, 7x7 for 28, (3, 5) for [48, 80].
base_grid = partial(halved_grid, least=3, times=2)


class Generator(nn.Module):
    """z, [N, nz] or [N, nz, 1, 1] -> images, [N, nc, H, W] in [-1, 1].

    Args:
        image_size: H and W in pixels, or one number for both; see `base_grid`.
        nz: length of z.
        ngf: filters of the last hidden layer; each layer before it has twice as many.
        kernel: side of the kernels of all layers but the first.
        projection: normalize each unit of the first layer by itself, as the paper's code does,
            instead of each of its channels.
    """

    def __init__(
        self,
        image_size: Sides,
        nc: Count = 3,
        nz: Count = 100,
        ngf: Count = 64,
        kernel: Count = 4,
        projection: bool = False,
        eps: NotNegative = 1e-5,
    ) -> None:
        super().__init__()
        grid, doublings = base_grid(image_size)
        maps = widths(ngf, doublings)[::-1]
        first = maps[0]
        if projection:
            units = first * grid[0] * grid[1]
            self.base = nn.Sequential(
                nn.Linear(nz, units, bias=False),
                nn.BatchNorm1d(units, eps),
                nn.ReLU(inplace=True),
                nn.Unflatten(1, (first, *grid)),
            )
        else:
            self.base = nn.Sequential(
                nn.Unflatten(1, (nz, 1, 1)),
                nn.ConvTranspose2d(nz, first, grid, bias=False),
                nn.BatchNorm2d(first, eps),
                nn.ReLU(inplace=True),
            )
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    doubling(inputs, outputs, kernel, bias=False),
                    nn.BatchNorm2d(outputs, eps),
                    nn.ReLU(inplace=True),
                )
                for inputs, outputs in pairwise(maps)
            )
        )
        self.image = nn.Sequential(doubling(maps[-1], nc, kernel, bias=False), nn.Tanh())
        self.apply(normal_init)

    def forward(self, z: Tensor) -> Tensor:
        return self.image(self.stages(self.base(z.flatten(1))))


class Discriminator(nn.Module):
    """Images, [N, nc, H, W] in [-1, 1] -> logits, [N].

    Args:
        image_size: H and W in pixels, or one number for both; see `base_grid`.
        ndf: filters of the first layer; each layer after it has twice as many.
        kernel: side of the kernels of all layers but the last.
        norm: normalization of all layers but the first: "batch" as published; "layer" (over each
            image, as in WGAN-GP) or "none" for gradient penalties, which need logits that do not
            depend on other images. With "none" the convolutions have biases instead.
    """

    def __init__(
        self,
        image_size: Sides,
        nc: Count = 3,
        ndf: Count = 64,
        kernel: Count = 4,
        norm: Norm = "batch",
        eps: NotNegative = 1e-5,
    ) -> None:
        super().__init__()
        grid, halvings = base_grid(image_size)
        bias = norm == "none"
        self.stages = nn.Sequential()
        width = nc
        for i, out in enumerate(widths(ndf, halvings)):
            self.stages.append(
                nn.Sequential(
                    halving(width, out, kernel, bias),
                    nn.Identity() if i == 0 else normalization(norm, out, eps),
                    nn.LeakyReLU(0.2, inplace=True),
                )
            )
            width = out
        # The kernel covers the grid, so this is also the paper's flattening and one linear unit.
        self.score = nn.Conv2d(width, 1, grid, bias=bias)
        self.apply(normal_init)

    def forward(self, images: Tensor) -> Tensor:
        return self.score(self.stages(images)).reshape(images.shape[0])


def widths(width: int, doublings: int) -> list[int]:
    """The filters from the image inward: `width`, and twice as many with each halving."""
    return [width * 2**i for i in range(doublings)]


def doubling(inputs: int, outputs: int, kernel: int, bias: bool) -> nn.ConvTranspose2d:
    """A transposed convolution that doubles height and width exactly, for any kernel from 2."""
    return nn.ConvTranspose2d(
        inputs, outputs, kernel, 2, (kernel - 1) // 2, output_padding=kernel % 2, bias=bias
    )


def halving(inputs: int, outputs: int, kernel: int, bias: bool) -> nn.Conv2d:
    """A convolution that halves an even height and width exactly, for any kernel from 2."""
    return nn.Conv2d(inputs, outputs, kernel, 2, (kernel - 1) // 2, bias=bias)


def normalization(norm: Norm, width: int, eps: float, momentum: float = 0.1) -> nn.Module:
    """BatchNorm2d, layer normalization over (C, H, W), or nothing; UserError for other names."""
    if norm == "batch":
        return nn.BatchNorm2d(width, eps, momentum)
    if norm == "layer":
        return nn.GroupNorm(1, width, eps)
    check_choice("norm", norm, ["batch", "layer", "none"])
    return nn.Identity()
