"""A small DCGAN in the manner of Keras tutorials, sized by its capacity (`ngf` and `ndf`).

Biases everywhere, LeakyReLU 0.3, Glorot uniform weights, BatchNorm with Keras' eps of 1e-3 and
momentum of 0.99 (which PyTorch calls 0.01). Strided layers pad one pixel more at the top left where
Keras pads it at the bottom right: the mirrored network.
"""

from functools import partial
from itertools import pairwise

from torch import Tensor, nn

from ganzoo.config.values import Count, Sides
from ganzoo.models.dcgan.networks import Norm, base_grid, doubling, halving, normalization, widths
from ganzoo.nn.layers import initialize

EPS, MOMENTUM = 1e-3, 0.01
glorot = partial(initialize, weights=nn.init.xavier_uniform_)


class CapacityGenerator(nn.Module):
    """z, [N, nz] or [N, nz, 1, 1] -> images, [N, nc, H, W] in [-1, 1].

    A linear layer onto the base grid and BN over its flat units, without activation; stages of
    ConvT stride 2, BN, LeakyReLU; Conv, tanh. At 64x64 and capacity 16: 128 filters on 4x4, then
    64-32-16-16.
    """

    def __init__(
        self,
        image_size: Sides = 64,
        nc: Count = 3,
        nz: Count = 100,
        ngf: Count = 16,
        kernel: Count = 5,
    ) -> None:
        super().__init__()
        grid, doublings = base_grid(image_size)
        maps = [*reversed(widths(ngf, doublings)), ngf]
        units = maps[0] * grid[0] * grid[1]
        self.base = nn.Sequential(
            nn.Linear(nz, units),
            nn.BatchNorm1d(units, EPS, MOMENTUM),
            nn.Unflatten(1, (maps[0], *grid)),
        )
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    doubling(inputs, outputs, kernel, bias=True),
                    nn.BatchNorm2d(outputs, EPS, MOMENTUM),
                    nn.LeakyReLU(0.3, inplace=True),
                )
                for inputs, outputs in pairwise(maps)
            )
        )
        self.image = nn.Sequential(nn.Conv2d(ngf, nc, kernel, padding="same"), nn.Tanh())
        self.apply(glorot)

    def forward(self, z: Tensor) -> Tensor:
        return self.image(self.stages(self.base(z.flatten(1))))


class CapacityDiscriminator(nn.Module):
    """Images, [N, nc, H, W] in [-1, 1] -> logits, [N].

    Stages of Conv, BN, Conv stride 2, BN, LeakyReLU (nothing between BN and the second Conv); the
    mean over positions; a linear unit. At 64x64 and capacity 16: 16-32-64-128 filters.
    """

    def __init__(
        self,
        image_size: Sides = 64,
        nc: Count = 3,
        ndf: Count = 16,
        kernel: Count = 5,
        norm: Norm = "batch",
    ) -> None:
        super().__init__()
        _, halvings = base_grid(image_size)
        maps = [nc, *widths(ndf, halvings)]
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(inputs, outputs, kernel, padding="same"),
                    normalization(norm, outputs, EPS, MOMENTUM),
                    halving(outputs, outputs, kernel, bias=True),
                    normalization(norm, outputs, EPS, MOMENTUM),
                    nn.LeakyReLU(0.3, inplace=True),
                )
                for inputs, outputs in pairwise(maps)
            )
        )
        self.score = nn.Linear(maps[-1], 1)
        self.apply(glorot)

    def forward(self, images: Tensor) -> Tensor:
        return self.score(self.stages(images).mean((2, 3))).squeeze(1)
