"""The networks of progressive growing (Karras et al. 2018), with the official code's constants.

A network of n doublings has levels 0 (the base grid, 4x4 for squares) to n (the full image). The
level of detail, `lod`, is the number of doublings that are still missing: 0 is the full size, n the
base grid, and 6.5 is half way from lod 7 to lod 6. Levels that are not active are not computed and
get no gradient.
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganzoo.config.values import Count, Natural, NotNegative, Sides
from ganzoo.errors import UserError
from ganzoo.models.pggan.layers import (
    LayerNorm,
    Layers,
    MinibatchDiscrimination,
    MinibatchStddev,
    PixelNorm,
    batch_norm,
)
from ganzoo.nn.layers import enlarged
from ganzoo.schedules.growth import base_grid


class Growing(nn.Module):
    """What the two networks have in common: sizes, widths, and which levels are active at a lod."""

    first_stage = 1  # the official code's nf(r - 1) for 2^r pixels, where level 0 has r = 2

    def __init__(
        self,
        image_size: Sides,
        channels: Count,
        classes: Natural,
        fmaps: tuple[float, float, int],
    ) -> None:
        super().__init__()
        self.grid, self.levels = base_grid(image_size)  # of level 0; the last level
        self.channels, self.classes, self.fmaps = channels, classes, fmaps
        stages = range(self.first_stage, self.first_stage + self.levels + 1)
        self.widths = [feature_maps(stage, *fmaps) for stage in stages]  # by level

    def active(self, lod: float) -> tuple[int, float]:
        """The highest active level, and the share in [0, 1) of the level below in the output.

        Raises UserError: lod is not in [0, levels].
        """
        if not 0 <= lod <= self.levels:
            raise UserError(
                f"lod={lod} is outside of this network: use one from 0 (full size) to "
                f"{self.levels} ({self.grid[0]}x{self.grid[1]})."
            )
        return self.levels - math.floor(lod), lod - math.floor(lod)

    def resolution(self, lod: float = 0.0) -> tuple[int, int]:
        """(height, width) of images at a lod, in pixels."""
        level, _ = self.active(lod)
        return self.grid[0] * 2**level, self.grid[1] * 2**level


class Generator(Growing):
    """Latents z [N, nz] (and labels y) -> images [N, channels, H, W] at the resolution of a lod.

    The official generator, with the options of the paper's ablation.
    Each level is upsampling and two 3x3 convolutions, each followed by bias, leaky ReLU and pixel
    normalization. Images are linear, without a tanh: the real images that they imitate lie in
    [-1, 1].

    Args:
        image_size: H and W in pixels, or one number for both; see `base_grid`.
        nz: length of z; None for the number of feature maps of stage 0, min(fmap_base, fmap_max).
        classes: number of classes that images are conditioned on; 0 for none.
        fmap_base, fmap_decay, fmap_max: numbers of feature maps; see `feature_maps`.
        normalize_latents: normalize z, with the label's one-hot vector, to a mean square of 1.
        wscale: use the equalized learning rate; see `Layer`.
        pixelnorm: normalize each pixel after each activation; see `PixelNorm`.
        pixelnorm_eps: epsilon of both normalizations; the official code has 1e-4 for fp16.
        leaky: use leaky ReLU of slope 0.2 instead of ReLU.
        fused_scale: upsample and convolve in one transposed convolution, which gives equal values.
        batchnorm: normalize over the batch before each activation, instead of adding a bias.
        tanh: apply a tanh to the image, after blending.
        gan_zoo: build the generator of facebookresearch/pytorch_GAN_zoo: a gain of sqrt(2) in all
            layers, biases scaled like weights, and a bias for each unit of the first layer instead
            of each feature map.
    """

    slope, rgb_kernel = 0.2, 1

    def __init__(
        self,
        image_size: Sides,
        channels: Count = 3,
        nz: Count | None = None,
        classes: Natural = 0,
        fmap_base: Count = 8192,
        fmap_decay: NotNegative = 1.0,
        fmap_max: Count = 512,
        normalize_latents: bool = True,
        wscale: bool = True,
        pixelnorm: bool = True,
        pixelnorm_eps: NotNegative = 1e-8,
        leaky: bool = True,
        fused_scale: bool = True,
        batchnorm: bool = False,
        tanh: bool = False,
        gan_zoo: bool = False,
    ) -> None:
        fmaps = fmap_base, fmap_decay, fmap_max
        super().__init__(image_size, channels, classes, fmaps)
        self.fused_scale, self.nz = fused_scale, nz or feature_maps(0, *fmaps)
        self.latent_norm = PixelNorm(pixelnorm_eps) if normalize_latents else nn.Identity()
        self.output = nn.Tanh() if tanh else nn.Identity()
        layers = Layers(
            wscale=wscale,
            leaky=leaky,
            slope=self.slope,
            fused_scale=fused_scale,
            pixelnorm=pixelnorm,
            pixelnorm_eps=pixelnorm_eps,
            norm=batch_norm if batchnorm else None,
            gan_zoo=gan_zoo,
        )
        first = layers.dense_to_grid(self.nz + classes, self.widths[0], self.grid)
        # By level: features of the level below -> features -> image.
        self.blocks = nn.ModuleList([self.block(layers, first, self.widths[0])])
        for below, here in pairwise(self.widths):
            self.blocks.append(self.block(layers, layers.up(below, here), here))
        self.to_rgb = nn.ModuleList(
            layers.to_rgb(maps, channels, self.rgb_kernel) for maps in self.widths
        )

    def block(self, layers: Layers, first: nn.Module, maps: int) -> nn.Sequential:
        """A level: a first layer, which gives its size, and a convolution."""
        return nn.Sequential(
            first,
            layers.activation(),
            layers.pixel_norm(),
            layers.conv(maps, maps),
            layers.activation(),
            layers.pixel_norm(),
        )

    def forward(self, z: Tensor, y: Tensor | None = None, lod: float = 0.0) -> Tensor:
        """Images [N, channels, H, W] of z [N, nz] and classes y [N] at `resolution(lod)`.

        At a fractional lod the new level's image is blended with the enlarged image of the level
        below (section 3, figure 2).
        """
        level, fade = self.active(lod)
        below = x = self._latents(z, y)
        for block in self.blocks[: level + 1]:
            below, x = x, block(x)
        image = self.to_rgb[level](x)
        if fade:  # images are blended, not features: both levels keep their own toRGB
            image = torch.lerp(image, enlarged(self.to_rgb[level - 1](below)), fade)
        return self.output(image)

    def _latents(self, z: Tensor, y: Tensor | None) -> Tensor:
        if (y is not None) != bool(self.classes):
            raise UserError(
                f"this generator has {self.classes} classes: "
                + ("give a label y for each z." if self.classes else "leave labels out.")
            )
        if y is not None:
            z = torch.cat([z, F.one_hot(y, self.classes).to(z.dtype)], 1)
        return self.latent_norm(z)


class Discriminator(Growing):
    """Images [N, channels, H, W] at the resolution of a lod -> scores [N] or [N, 1 + classes].

    The official discriminator, with the options of the paper's ablation.
    Each level is two 3x3 convolutions with bias and leaky ReLU, and average pooling. Level 0 has
    the minibatch's standard deviation as one more channel, so the scores of a group's images depend
    on each other. Scores are linear.

    Args:
        image_size, channels, fmap_base, fmap_decay, fmap_max, wscale, leaky: as in `Generator`.
        classes: number of classes whose logits follow the score; 0 for none.
        fused_scale: convolve and pool in one convolution of stride 2, as the official code does:
            pooling comes before bias and activation. False: after them, as in the paper.
        group_size: images in a group of `MinibatchStddev`; 0 leaves its channel out.
        layernorm, batchnorm: normalize over each image, or over the batch, before each activation,
            but not in fromRGB. With batchnorm the scores of a batch's images depend on each other,
            and so does the gradient penalty, as in the paper's mode test.
        minibatch_kernels: kernels of a `MinibatchDiscrimination` before the last layer; 0 for none.
        gan_zoo: build the discriminator of facebookresearch/pytorch_GAN_zoo: a gain of sqrt(2) in
            all layers, biases scaled like weights, groups of neighbors with the unbiased variance,
            and no fade from level 0 to level 1. It needs fused_scale=False.
    """

    def __init__(
        self,
        image_size: Sides,
        channels: Count = 3,
        classes: Natural = 0,
        fmap_base: Count = 8192,
        fmap_decay: NotNegative = 1.0,
        fmap_max: Count = 512,
        wscale: bool = True,
        leaky: bool = True,
        fused_scale: bool = True,
        group_size: Natural = 4,
        layernorm: bool = False,
        minibatch_kernels: Natural = 0,
        batchnorm: bool = False,
        gan_zoo: bool = False,
    ) -> None:
        fmaps = fmap_base, fmap_decay, fmap_max
        super().__init__(image_size, channels, classes, fmaps)
        if batchnorm and layernorm:
            raise UserError("batchnorm and layernorm are both true: set one of them to false.")
        self.fused_scale, self.group_size = fused_scale, group_size
        self.jumps = 1 if gan_zoo else None  # the level that is not faded in
        layers = Layers(
            wscale=wscale,
            leaky=leaky,
            fused_scale=fused_scale,
            norm=batch_norm if batchnorm else LayerNorm if layernorm else None,
            gan_zoo=gan_zoo,
        )
        # By level: image -> features -> features of the level below; those of level 0 -> scores.
        levels = range(self.levels + 1)
        self.blocks = nn.ModuleList([self.lowest(layers, minibatch_kernels)])
        self.blocks.extend(self.block(layers, level) for level in levels[1:])
        self.from_rgb = nn.ModuleList(self.features(layers, level) for level in levels)

    def lowest(self, layers: Layers, kernels: int) -> nn.Sequential:
        """Features of level 0 -> scores."""
        first, hidden, grouped = self.widths[0], feature_maps(0, *self.fmaps), self.group_size > 1
        return nn.Sequential(
            MinibatchStddev(self.group_size, layers.gan_zoo) if grouped else nn.Identity(),
            layers.conv(first + grouped, first),
            layers.activation(),
            nn.Flatten(),
            layers.dense(first * math.prod(self.grid), hidden),
            layers.activation(),
            *([MinibatchDiscrimination(hidden, kernels)] if kernels else []),
            layers.scores(hidden + kernels, 1 + self.classes),
        )

    def block(self, layers: Layers, level: int) -> nn.Sequential:
        """Features of a level -> features of the level below."""
        below, here = self.widths[level - 1], self.widths[level]
        return nn.Sequential(
            layers.conv(here, here),
            layers.activation(),
            layers.down(here, below),
            layers.activation(),
            layers.pool(),
        )

    def features(self, layers: Layers, level: int) -> nn.Module:
        """Image -> features of a level."""
        return layers.from_rgb(self.channels, self.widths[level])

    def forward(self, x: Tensor, lod: float = 0.0) -> Tensor:
        """Scores [N] of images, or [N, 1 + classes]: the score, then the logits of the classes.

        At a fractional lod the features of the new level are blended with those that the level
        below has of the halved image (section 3, figure 2). Raises `UserError` for images that are
        not [N, channels, *resolution(lod)].
        """
        scores = self.blocks[0](self._features(x, lod))
        return scores if self.classes else scores.squeeze(1)

    @torch.no_grad()
    def fit(self, x: Tensor, lod: float = 0.0) -> None:
        """Initialize `MinibatchDiscrimination`, if there is one, from real images."""
        h = self._features(x, lod)
        for module in self.blocks[0].children():
            if isinstance(module, MinibatchDiscrimination):
                module.fit(h)
            h = module(h)

    def _features(self, x: Tensor, lod: float) -> Tensor:
        """The input of level 0: [N, widths[0], *grid]."""
        level, fade = self.active(lod)
        expected = (self.channels, *self.resolution(lod))
        if x.shape[1:] != expected:
            raise UserError(
                f"At lod {lod:g} images have shape {list(expected)}, but these have "
                f"{list(x.shape[1:])}: resize them, or give the lod that they belong to."
            )
        if level == self.jumps:
            fade = 0.0
        h = self.from_rgb[level](x)
        for i in range(level, 0, -1):
            h = self.blocks[i](h)
            if fade and i == level:
                h = torch.lerp(h, self.from_rgb[level - 1](F.avg_pool2d(x, 2)), fade)
        return h


def feature_maps(stage: int, base: float = 8192, decay: float = 1.0, most: int = 512) -> int:
    """The number of feature maps of a stage: min(base / 2^(stage decay), most), rounded down.

    nf(stage) of the official code. Raises UserError if that is 0.
    """
    maps = min(int(base / 2 ** (stage * decay)), most)
    if maps < 1:
        raise UserError(
            f"fmap_base={base:g} and fmap_max={most} leave no feature maps for level {stage - 1}: "
            f"increase them, or make image_size smaller."
        )
    return maps
