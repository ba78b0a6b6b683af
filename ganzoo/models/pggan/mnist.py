"""The small networks of the mode test on MNIST-RGB (Karras et al. 2018, appendix E).

One 3x3 convolution a level, and a discriminator with fewer feature maps than the generator, so that
it is hard to see which of the thousand modes are missing. To the constants of the paper's code.
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

from torch import nn

from ganzoo.errors import UserError
from ganzoo.models.pggan.networks import (
    SQRT2,
    GrowingDiscriminator,
    GrowingGenerator,
    Layer,
    LayerNorm,
    MinibatchDiscrimination,
    MinibatchStddev,
    PixelNorm,
    activation,
    batch_norm,
    convolution,
    dense,
    feature_maps,
    fused_down,
    fused_up,
    unfused_up,
)


class MNISTGenerator(GrowingGenerator):
    """z, [N, nz] (and labels y) -> images, [N, channels, H, W] in [-1, 1].

    At 32x32 levels of 64, 32, 16 and 8 maps; images come from 3x3 convolutions and a tanh.

    Args:
        leaky: leaky ReLU of slope 0.3 instead of ReLU.
        image_size, channels, nz, ...: as in `Generator`, but level i has the maps of stage i.

    Raises UserError when image_size cannot be halved down to a base grid.
    """

    def __init__(
        self,
        image_size: int | Sequence[int] = 32,
        channels: int = 3,
        nz: int | None = None,
        classes: int = 0,
        fmap_base: int = 64,
        fmap_decay: float = 1.0,
        fmap_max: int = 256,
        normalize_latents: bool = True,
        wscale: bool = False,
        pixelnorm: bool = False,
        pixelnorm_eps: float = 1e-8,
        leaky: bool = True,
        fused_scale: bool = False,
        batchnorm: bool = True,
        tanh: bool = True,
    ) -> None:
        super().__init__(image_size, fmap_base * 2**fmap_decay, fmap_decay, fmap_max)
        self.channels, self.classes = channels, classes
        self.nz = nz or feature_maps(0, fmap_base, fmap_decay, fmap_max)
        self.latent_norm = PixelNorm(pixelnorm_eps) if normalize_latents else nn.Identity()
        self.output = nn.Tanh() if tanh else nn.Identity()
        plain = partial(Layer, wscale=wscale)
        layer = partial(plain, norm=batch_norm if batchnorm else None)
        first, height, width = self.widths[0], *self.grid

        def block(module: Layer) -> nn.Sequential:
            pixels = PixelNorm(pixelnorm_eps) if pixelnorm else nn.Identity()
            return nn.Sequential(module, activation(leaky, 0.3), pixels)

        dense_to_grid = layer(
            partial(dense, grid=self.grid),
            (first * height * width, self.nz + classes),
            gain=SQRT2 / 4,
            bias=(first, 1, 1),
        )
        self.blocks = nn.ModuleList([block(dense_to_grid)])
        for below, here in pairwise(self.widths):
            up = layer(fused_up if fused_scale else unfused_up, (here, below, 3, 3))
            self.blocks.append(block(up))
        self.to_rgb = nn.ModuleList(
            plain(convolution, (channels, maps, 3, 3), gain=1.0) for maps in self.widths
        )


class MNISTDiscriminator(GrowingDiscriminator):
    """Images, [N, channels, H, W] at the resolution of a lod -> scores, [N] or [N, 1 + classes].

    At 32x32 levels of 32, 16 and 8 maps over `divisor`, each a convolution and average pooling; the
    last of them are scored by one dense layer. The highest level has the image itself for features.

    With batchnorm the gradient penalty is that of images that depend on each other, as in the
    paper's code.

    Args:
        divisor: of the feature maps; 2 or 4 in the paper.
        image_size, channels, classes, ...: as in `Discriminator`.

    Raises UserError when image_size cannot be halved down to a base grid, when no maps are left, or
    with both normalizations.
    """

    def __init__(
        self,
        image_size: int | Sequence[int] = 32,
        channels: int = 3,
        classes: int = 0,
        fmap_base: int = 64,
        fmap_decay: float = 1.0,
        fmap_max: int = 256,
        wscale: bool = False,
        leaky: bool = True,
        fused_scale: bool = False,
        group_size: int = 0,
        layernorm: bool = False,
        minibatch_kernels: int = 0,
        batchnorm: bool = True,
        divisor: int = 2,
    ) -> None:
        super().__init__(image_size, fmap_base / divisor, fmap_decay, fmap_max)
        self.channels, self.classes, self.group_size = channels, classes, group_size
        plain = partial(Layer, wscale=wscale)
        if batchnorm and layernorm:
            raise UserError("batchnorm and layernorm are both true: set one of them to false.")
        norm = batch_norm if batchnorm else LayerNorm if layernorm else None
        layer = partial(plain, norm=norm)
        height, width = self.grid
        grouped, kernels = group_size > 1, minibatch_kernels
        features = (self.widths[0] + grouped) * height * width
        self.blocks = nn.ModuleList(
            [
                nn.Sequential(
                    MinibatchStddev(group_size) if grouped else nn.Identity(),
                    nn.Flatten(),
                    *([MinibatchDiscrimination(features, kernels)] if kernels else []),
                    plain(dense, (1 + classes, features + kernels), gain=1.0),
                )
            ]
        )
        self.widths[-1] = channels  # the image itself
        for below, here in pairwise(self.widths):
            self.blocks.append(
                nn.Sequential(
                    layer(fused_down if fused_scale else convolution, (below, here, 3, 3)),
                    activation(leaky),
                    nn.Identity() if fused_scale else nn.AvgPool2d(2),
                )
            )
        self.from_rgb = nn.ModuleList(
            nn.Sequential(plain(convolution, (maps, channels, 1, 1)), activation(leaky))
            for maps in self.widths[:-1]
        )
        self.from_rgb.append(nn.Identity())
