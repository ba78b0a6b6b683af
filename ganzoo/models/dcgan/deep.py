"""The deeper DCGAN for CIFAR-10 that PyTorch-StudioGAN measures (its `deep_conv` backbone).

Biases everywhere, ReLU in both networks, orthogonal weights; two convolutions per stage in the
discriminator. Published for 32x32; other sizes add or drop stages at the wide end.
"""

from functools import partial
from itertools import pairwise

from torch import Tensor, nn

from ganzoo.config.values import Count, NotNegative, Sides
from ganzoo.models.dcgan.networks import Norm, base_grid, doubling, halving, normalization, widths
from ganzoo.nn.layers import initialize

orthogonal = partial(initialize, weights=nn.init.orthogonal_)


class DeepGenerator(nn.Module):
    """z, [N, nz] or [N, nz, 1, 1] -> images, [N, nc, H, W] in [-1, 1].

    A linear layer onto the base grid, neither normalized nor activated; stages of ConvT 4x4, BN,
    ReLU; Conv 3x3, tanh. At 32x32: 512-256-128-64 filters.
    """

    def __init__(
        self,
        image_size: Sides = 32,
        nc: Count = 3,
        nz: Count = 128,
        ngf: Count = 64,
        kernel: Count = 4,
        eps: NotNegative = 1e-4,
    ) -> None:
        super().__init__()
        grid, doublings = base_grid(image_size)
        maps = widths(ngf, doublings + 1)[::-1]
        self.base = nn.Sequential(
            nn.Linear(nz, maps[0] * grid[0] * grid[1]), nn.Unflatten(1, (maps[0], *grid))
        )
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    doubling(inputs, outputs, kernel, bias=True),
                    nn.BatchNorm2d(outputs, eps),
                    nn.ReLU(inplace=True),
                )
                for inputs, outputs in pairwise(maps)
            )
        )
        self.image = nn.Sequential(nn.Conv2d(maps[-1], nc, 3, padding=1), nn.Tanh())
        self.apply(orthogonal)

    def forward(self, z: Tensor) -> Tensor:
        return self.image(self.stages(self.base(z.flatten(1))))


class DeepDiscriminator(nn.Module):
    """Images, [N, nc, H, W] in [-1, 1] -> logits, [N].

    Stages of Conv 3x3, BN, ReLU, Conv 4x4 stride 2, BN, ReLU; one more Conv 3x3, BN, ReLU on the
    base grid; the sum over positions; a linear unit. At 32x32: 64-128-256-512 filters.
    """

    def __init__(
        self,
        image_size: Sides = 32,
        nc: Count = 3,
        ndf: Count = 64,
        kernel: Count = 4,
        norm: Norm = "batch",
        eps: NotNegative = 1e-4,
    ) -> None:
        super().__init__()
        _, halvings = base_grid(image_size)
        maps = [nc, *widths(ndf, halvings + 1)]

        def normalized(convolution: nn.Conv2d) -> list[nn.Module]:
            maps = convolution.out_channels
            return [convolution, normalization(norm, maps, eps), nn.ReLU(inplace=True)]

        self.stages = nn.Sequential()
        for i, (inputs, outputs) in enumerate(pairwise(maps)):
            layers = normalized(nn.Conv2d(inputs, outputs, 3, padding=1))
            if i < halvings:
                layers += normalized(halving(outputs, outputs, kernel, bias=True))
            self.stages.append(nn.Sequential(*layers))
        self.score = nn.Linear(maps[-1], 1)
        self.apply(orthogonal)

    def forward(self, images: Tensor) -> Tensor:
        return self.score(self.stages(images).sum((2, 3))).squeeze(1)
