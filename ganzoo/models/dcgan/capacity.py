"""A small DCGAN in the manner of Keras tutorials, sized by its capacity (`ngf` and `ndf`).

Biases everywhere, LeakyReLU 0.3, Glorot uniform weights, BatchNorm with Keras' eps of 1e-3 and
momentum of 0.99 (which PyTorch calls 0.01). Strided layers pad one pixel more at the top left where
Keras pads it at the bottom right: the mirrored network.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from ganzoo.models.dcgan.networks import Norm, base_grid, doubling, halving, normalization, widths

EPS, MOMENTUM = 1e-3, 0.01


class CapacityGenerator(nn.Module):
    """z, [N, nz] or [N, nz, 1, 1] -> images, [N, nc, H, W] in [-1, 1].

    A linear layer onto the base grid and BN over its flat units, without activation; stages of
    ConvT stride 2, BN, LeakyReLU; Conv, tanh. At 64x64 and capacity 16: 128 filters on 4x4, then
    64-32-16-16. Raises UserError when image_size cannot be halved down to a base grid
    (`networks.base_grid`).
    """

    def __init__(
        self,
        image_size: int | Sequence[int] = 64,
        nc: int = 3,
        nz: int = 100,
        ngf: int = 16,
        kernel: int = 5,
    ) -> None:
        super().__init__()
        grid, doublings = base_grid(image_size)
        width, *hidden = reversed(widths(ngf, doublings))
        units = width * grid[0] * grid[1]
        self.base = nn.Sequential(
            nn.Linear(nz, units),
            nn.BatchNorm1d(units, EPS, MOMENTUM),
            nn.Unflatten(1, (width, *grid)),
        )
        self.stages = nn.Sequential()
        for out in [*hidden, ngf]:
            self.stages.append(
                nn.Sequential(
                    doubling(width, out, kernel, bias=True),
                    nn.BatchNorm2d(out, EPS, MOMENTUM),
                    nn.LeakyReLU(0.3, inplace=True),
                )
            )
            width = out
        self.image = nn.Sequential(nn.Conv2d(width, nc, kernel, padding="same"), nn.Tanh())
        self.apply(glorot_init)

    def forward(self, z: Tensor) -> Tensor:
        return self.image(self.stages(self.base(z.flatten(1))))


class CapacityDiscriminator(nn.Module):
    """Images, [N, nc, H, W] in [-1, 1] -> logits, [N].

    Stages of Conv, BN, Conv stride 2, BN, LeakyReLU (nothing between BN and the second Conv); the
    mean over positions; a linear unit. At 64x64 and capacity 16: 16-32-64-128 filters. `norm`
    is that of `networks.Discriminator`. Raises UserError when image_size cannot be halved down to a
    base grid, or norm is unknown.
    """

    def __init__(
        self,
        image_size: int | Sequence[int] = 64,
        nc: int = 3,
        ndf: int = 16,
        kernel: int = 5,
        norm: Norm = "batch",
    ) -> None:
        super().__init__()
        _, halvings = base_grid(image_size)
        self.stages = nn.Sequential()
        width = nc
        for out in widths(ndf, halvings):
            self.stages.append(
                nn.Sequential(
                    nn.Conv2d(width, out, kernel, padding="same"),
                    normalization(norm, out, EPS, MOMENTUM),
                    halving(out, out, kernel, bias=True),
                    normalization(norm, out, EPS, MOMENTUM),
                    nn.LeakyReLU(0.3, inplace=True),
                )
            )
            width = out
        self.score = nn.Linear(width, 1)
        self.apply(glorot_init)

    def forward(self, images: Tensor) -> Tensor:
        return self.score(self.stages(images).mean((2, 3))).squeeze(1)


def glorot_init(module: nn.Module) -> None:
    """Glorot uniform weights, biases 0: the defaults of Keras."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
