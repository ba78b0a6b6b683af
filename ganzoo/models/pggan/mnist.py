"""The small networks of the mode test on MNIST-RGB (Karras et al. 2018, appendix E).

One 3x3 convolution a level, and a discriminator with fewer feature maps than the generator, so that
it has difficulty noticing which of the thousand modes are missing. The constants are those of the
paper's code.
"""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from ganzoo.errors import UserError
from ganzoo.models.pggan.layers import (
    LayerNorm,
    Layers,
    MinibatchDiscrimination,
    MinibatchStddev,
    PixelNorm,
    batch_norm,
)
from ganzoo.models.pggan.networks import GrowingDiscriminator, GrowingGenerator, feature_maps


class MNISTGenerator(GrowingGenerator):
    """Latents z [N, nz] (and labels y) -> images [N, channels, H, W] in [-1, 1].

    At 32x32 the levels have 64, 32, 16 and 8 feature maps. toRGB is a 3x3 convolution and a tanh.

    Args:
        leaky: use leaky ReLU of slope 0.3 instead of ReLU.
        image_size, channels, nz, ...: as in `Generator`, but level i has the maps of stage i.

    Raises:
        UserError: image_size cannot be halved down to a base grid.
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
        layers = Layers(
            wscale=wscale,
            leaky=leaky,
            slope=0.3,
            fused_scale=fused_scale,
            pixelnorm=pixelnorm,
            pixelnorm_eps=pixelnorm_eps,
            norm=batch_norm if batchnorm else None,
        )
        self.blocks = nn.ModuleList()
        self.blocks.append(
            nn.Sequential(
                layers.dense_to_grid(self.nz + classes, self.widths[0], self.grid),
                layers.activation(),
                layers.pixel_norm(),
            )
        )
        for below, here in pairwise(self.widths):
            self.blocks.append(
                nn.Sequential(layers.up(below, here), layers.activation(), layers.pixel_norm())
            )
        self.to_rgb = nn.ModuleList(layers.to_rgb(maps, channels, 3) for maps in self.widths)


class MNISTDiscriminator(GrowingDiscriminator):
    """Images [N, channels, H, W] at the resolution of a lod -> scores [N] or [N, 1 + classes].

    At 32x32 the levels have 64, 32, 16 and 8 feature maps, divided by `divisor`. Each level but the
    lowest is a convolution and average pooling; one dense layer scores the lowest. The highest
    level has the image itself for features.

    With batchnorm the scores of a batch's images depend on each other, and so does the gradient
    penalty, as in the paper's code.

    Args:
        divisor: number that the feature maps are divided by; 2 or 4 in the paper.
        image_size, channels, classes, ...: as in `Discriminator`.

    Raises:
        UserError: image_size cannot be halved down to a base grid, no feature maps are left, or
            both normalizations are on.
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
        if batchnorm and layernorm:
            raise UserError("batchnorm and layernorm are both true: set one of them to false.")
        norm = batch_norm if batchnorm else LayerNorm if layernorm else None
        layers = Layers(wscale=wscale, leaky=leaky, fused_scale=fused_scale, norm=norm)
        height, width = self.grid
        grouped, kernels = group_size > 1, minibatch_kernels
        features = (self.widths[0] + grouped) * height * width
        self.blocks = nn.ModuleList()
        self.blocks.append(
            nn.Sequential(
                MinibatchStddev(group_size) if grouped else nn.Identity(),
                nn.Flatten(),
                *([MinibatchDiscrimination(features, kernels)] if kernels else []),
                layers.scores(features + kernels, 1 + classes),
            )
        )
        self.widths[-1] = channels  # the highest level has the image itself for features
        for below, here in pairwise(self.widths):
            self.blocks.append(
                nn.Sequential(layers.down(here, below), layers.activation(), layers.pool())
            )
        self.from_rgb = nn.ModuleList(layers.from_rgb(channels, maps) for maps in self.widths[:-1])
        self.from_rgb.append(nn.Identity())
