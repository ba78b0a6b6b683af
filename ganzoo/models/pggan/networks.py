"""The networks of progressive growing (Karras et al. 2018), to the constants of the official code.

A network of n doublings has levels 0 (the base grid, 4x4 for squares) to n (the whole image). `lod`
says how many doublings are still missing: 0 is full size, n the base grid, and 6.5 is half way from
lod 7 to lod 6. Levels that are not active at a lod are not computed and get no gradient.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganzoo.errors import UserError
from ganzoo.nn.layers import convolution, enlarged, fused_down, fused_up
from ganzoo.schedules.growth import base_grid

SQRT2 = math.sqrt(2)
Op = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # input, weight, bias -> output


class Growing(nn.Module):
    """What the two networks have in common: sizes, widths, and what is active at a lod.

    Attributes:
        grid: (height, width) of level 0.
        levels: how many doublings lead from it to the whole image.
        widths: feature maps of each level.
    """

    def __init__(
        self,
        image_size: int | Sequence[int],
        fmap_base: float,
        fmap_decay: float,
        fmap_max: int,
    ) -> None:
        super().__init__()
        self.grid, self.levels = base_grid(image_size)
        # Section A.1's table: a block of 2^r pixels has as many maps as stage r - 1.
        self.widths = [feature_maps(i + 1, fmap_base, fmap_decay, fmap_max) for i in self.all()]

    def all(self) -> range:
        return range(self.levels + 1)

    def active(self, lod: float) -> tuple[int, float]:
        """The highest active level, and the share, in [0, 1), of the level below it in the output.

        Raises UserError unless 0 <= lod <= levels.
        """
        if not 0 <= lod <= self.levels:
            raise UserError(
                f"lod={lod} is outside of this network: give one from 0 (full size) to "
                f"{self.levels} ({self.grid[0]}x{self.grid[1]})."
            )
        return self.levels - math.floor(lod), lod - math.floor(lod)

    def resolution(self, lod: float = 0.0) -> tuple[int, int]:
        """(height, width) of images at a lod, in pixels."""
        level, _ = self.active(lod)
        return self.grid[0] * 2**level, self.grid[1] * 2**level


class GrowingGenerator(Growing):
    """z, [N, nz] (and labels y) -> images, [N, channels, H, W] at the resolution of a lod.

    Attributes:
        latent_norm: what z (and the label's one-hot vector) passes first.
        blocks, to_rgb: of each level: features from those of the level below, and the image.
        output: what the image passes last.
    """

    nz: int
    channels: int
    classes: int
    latent_norm: nn.Module
    blocks: nn.ModuleList
    to_rgb: nn.ModuleList
    output: nn.Module

    def forward(self, z: Tensor, y: Tensor | None = None, lod: float = 0.0) -> Tensor:
        """Images [N, channels, H, W] of z [N, nz] at `resolution(lod)`.

        Args:
            z: latents, from N(0, 1).
            y: class of each, [N], integers; None where there are no classes.
            lod: where it is fractional, two images are blended: the new level's and, enlarged, that
                of the level below.

        Raises UserError for a lod outside of the network, labels missing or not expected.
        """
        level, fade = self.active(lod)
        below = x = self._latents(z, y)
        for block in self.blocks[: level + 1]:
            below, x = x, block(x)
        image = self.to_rgb[level](x)
        if fade:
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


class Generator(GrowingGenerator):
    """The official generator, and the options of the paper's ablation.

    Each level is upsampling and two 3x3 convolutions, each with bias, leaky ReLU and pixelwise
    normalization. Images are linear, without a tanh: reals in [-1, 1] are what they are to be like.

    Args:
        image_size: H and W in pixels, or one number for both; see `base_grid`.
        channels: of the image.
        nz: length of z; None for the width of stage 0, min(fmap_base, fmap_max).
        classes: how many, if images are conditioned on a label.
        fmap_base, fmap_decay, fmap_max: see `feature_maps`.
        normalize_latents: give z (and the label's one-hot vector, concatenated before) a mean
            square of 1.
        wscale: the equalized learning rate: weights start from N(0, 1) and are multiplied by
            gain / sqrt(fan_in) when used. False puts that factor into the initial weights.
        pixelnorm: normalize after each activation.
        pixelnorm_eps: of both normalizations, inside the root; the official code has 1e-4 for fp16.
        leaky: leaky ReLU of slope 0.2 instead of ReLU.
        fused_scale: upsample and convolve in one transposed convolution, which is equal in value.
        batchnorm: normalize over the batch before each activation, in place of the bias.
        tanh: of the image, after two were blended.
        gan_zoo: as in facebookresearch/pytorch_GAN_zoo: a gain of sqrt(2) in all layers, biases
            scaled like weights, a bias for each unit of the first layer instead of each channel.

    Raises UserError when image_size cannot be halved down to a base grid.
    """

    def __init__(
        self,
        image_size: int | Sequence[int],
        channels: int = 3,
        nz: int | None = None,
        classes: int = 0,
        fmap_base: int = 8192,
        fmap_decay: float = 1.0,
        fmap_max: int = 512,
        normalize_latents: bool = True,
        wscale: bool = True,
        pixelnorm: bool = True,
        pixelnorm_eps: float = 1e-8,
        leaky: bool = True,
        fused_scale: bool = True,
        batchnorm: bool = False,
        tanh: bool = False,
        gan_zoo: bool = False,
    ) -> None:
        super().__init__(image_size, fmap_base, fmap_decay, fmap_max)
        self.channels, self.classes, self.fused_scale = channels, classes, fused_scale
        self.nz = nz or feature_maps(0, fmap_base, fmap_decay, fmap_max)
        self.latent_norm = PixelNorm(pixelnorm_eps) if normalize_latents else nn.Identity()
        self.output = nn.Tanh() if tanh else nn.Identity()
        plain = partial(Layer, wscale=wscale, scale_bias=gan_zoo)
        layer = partial(plain, norm=batch_norm if batchnorm else None)
        up = fused_up if fused_scale else unfused_up
        first, height, width = self.widths[0], *self.grid
        dense_to_grid = layer(
            partial(dense, grid=self.grid),
            (first * height * width, self.nz + classes),
            # The official code's value: that of a 4x4 convolution over a padded 1x1 image.
            gain=SQRT2 if gan_zoo else SQRT2 / 4,
            bias=(first, height, width) if gan_zoo else (first, 1, 1),
        )

        def block(*layers: Layer) -> nn.Sequential:
            modules: list[nn.Module] = []
            for module in layers:
                pixels = PixelNorm(pixelnorm_eps) if pixelnorm else nn.Identity()
                modules += [module, activation(leaky), pixels]
            return nn.Sequential(*modules)

        self.blocks = nn.ModuleList(
            [block(dense_to_grid, layer(convolution, (first, first, 3, 3)))]
        )
        for below, here in pairwise(self.widths):
            self.blocks.append(
                block(layer(up, (here, below, 3, 3)), layer(convolution, (here, here, 3, 3)))
            )
        self.to_rgb = nn.ModuleList(
            plain(convolution, (channels, maps, 1, 1), gain=SQRT2 if gan_zoo else 1.0)
            for maps in self.widths
        )


class GrowingDiscriminator(Growing):
    """Images, [N, channels, H, W] at the resolution of a lod -> scores, [N] or [N, 1 + classes].

    Attributes:
        group_size: of the minibatch standard deviation, see `minibatch_stddev`; 0 for none.
        from_rgb, blocks: of each level: features of its image, and those of the level below (at
            level 0 the scores) from these.
        jumps: the level that does not fade in, if there is one.
    """

    channels: int
    classes: int
    group_size: int
    from_rgb: nn.ModuleList
    blocks: nn.ModuleList
    jumps: int | None = None

    def forward(self, x: Tensor, lod: float = 0.0) -> Tensor:
        """Scores [N] of images, or [N, 1 + classes]: scores, then the logits of the classes.

        Args:
            x: images, [N, channels, *resolution(lod)].
            lod: where it is fractional, features are blended: those of the new level and those of
                the halved image as the level below sees it.

        Raises UserError for a lod outside of the network, images of another shape, or a batch that
        does not split into groups.
        """
        scores = self.blocks[0](self._features(x, lod))
        return scores if self.classes else scores.squeeze(1)

    @torch.no_grad()
    def fit(self, x: Tensor, lod: float = 0.0) -> None:
        """Fit what starts from data, which is `MinibatchDiscrimination`, to real images."""
        h = self._features(x, lod)
        for module in self.blocks[0].children():
            if isinstance(module, MinibatchDiscrimination):
                module.fit(h)
            h = module(h)

    def _features(self, x: Tensor, lod: float) -> Tensor:
        """What level 0 sees: [N, widths[0], *grid]."""
        level, fade = self.active(lod)
        expected = (self.channels, *self.resolution(lod))
        if x.shape[1:] != expected:
            raise UserError(
                f"at lod {lod:g} images have shape {list(expected)}, but these have "
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


class Discriminator(GrowingDiscriminator):
    """The official discriminator, and the options of the paper's ablation.

    Each level is two 3x3 convolutions with bias and leaky ReLU, and average pooling. Level 0 sees
    the minibatch's standard deviation as one more channel, so that the images of a group are not
    judged independently. Scores are linear.

    Args:
        image_size, channels, fmap_base, fmap_decay, fmap_max, wscale, leaky: as in `Generator`.
        classes: how many, if it also classifies: their logits follow the score.
        fused_scale: convolve and pool in one convolution of stride 2, as the official code; bias
            and activation then come after pooling. False is the order of the paper: before it.
        group_size: see `minibatch_stddev`; 0 leaves that channel out.
        layernorm: normalize over each image before each activation, but not in fromRGB.
        minibatch_kernels: of a `MinibatchDiscrimination` before the last layer; 0 for none.
        gan_zoo: as in facebookresearch/pytorch_GAN_zoo: a gain of sqrt(2) in all layers, biases
            scaled like weights, groups of neighbors with the unbiased variance, and no fade from
            level 0 to level 1. Its order is that of fused_scale=False.

    Raises UserError when image_size cannot be halved down to a base grid.
    """

    def __init__(
        self,
        image_size: int | Sequence[int],
        channels: int = 3,
        classes: int = 0,
        fmap_base: int = 8192,
        fmap_decay: float = 1.0,
        fmap_max: int = 512,
        wscale: bool = True,
        leaky: bool = True,
        fused_scale: bool = True,
        group_size: int = 4,
        layernorm: bool = False,
        minibatch_kernels: int = 0,
        gan_zoo: bool = False,
    ) -> None:
        super().__init__(image_size, fmap_base, fmap_decay, fmap_max)
        self.channels, self.classes = channels, classes
        self.fused_scale, self.group_size = fused_scale, group_size
        self.jumps = 1 if gan_zoo else None
        plain = partial(Layer, wscale=wscale, scale_bias=gan_zoo)
        layer = partial(plain, norm=LayerNorm if layernorm else None)
        first, hidden = self.widths[0], feature_maps(0, fmap_base, fmap_decay, fmap_max)
        height, width = self.grid
        grouped, kernels = group_size > 1, minibatch_kernels
        self.blocks = nn.ModuleList(
            [
                nn.Sequential(
                    MinibatchStddev(group_size, gan_zoo) if grouped else nn.Identity(),
                    layer(convolution, (first, first + grouped, 3, 3)),
                    activation(leaky),
                    nn.Flatten(),
                    layer(dense, (hidden, first * height * width)),
                    activation(leaky),
                    *([MinibatchDiscrimination(hidden, kernels)] if kernels else []),
                    plain(dense, (1 + classes, hidden + kernels), gain=SQRT2 if gan_zoo else 1.0),
                )
            ]
        )
        for below, here in pairwise(self.widths):
            self.blocks.append(
                nn.Sequential(
                    layer(convolution, (here, here, 3, 3)),
                    activation(leaky),
                    layer(fused_down if fused_scale else convolution, (below, here, 3, 3)),
                    activation(leaky),
                    nn.Identity() if fused_scale else nn.AvgPool2d(2),
                )
            )
        self.from_rgb = nn.ModuleList(
            nn.Sequential(plain(convolution, (maps, channels, 1, 1)), activation(leaky))
            for maps in self.widths
        )


class Layer(nn.Module):
    """Weights and a bias for an operation, scaled while the network runs (section 4.1).

    Args:
        op: (input, weight, bias) -> output.
        shape: of the weights, [outputs, inputs, ...]; all but the first make up fan_in.
        gain: weights as used have a standard deviation of gain / sqrt(fan_in) at first.
        wscale: store N(0, 1) and scale when used; otherwise store what is used.
        scale_bias: scale the bias like the weights.
        bias: shape of the bias; None for [outputs].
        norm: makes what normalizes so many maps; that has biases, and this layer then none.
    """

    def __init__(
        self,
        op: Op,
        shape: tuple[int, ...],
        gain: float = SQRT2,
        wscale: bool = True,
        scale_bias: bool = False,
        bias: tuple[int, ...] | None = None,
        norm: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        std = gain / math.sqrt(math.prod(shape[1:]))
        self.op = op
        self.scale = std if wscale else 1.0
        self.bias_scale = self.scale if scale_bias else 1.0
        self.weight = nn.Parameter(torch.randn(shape) * (std / self.scale))
        bias = bias or shape[:1]
        self.bias = None if norm else nn.Parameter(torch.zeros(bias))
        self.norm = norm(bias[0]) if norm else None

    def forward(self, x: Tensor) -> Tensor:
        weight: Tensor = self.weight
        bias: Tensor | None = self.bias
        if bias is not None and self.bias_scale != 1.0:
            bias = bias * self.bias_scale
        if self.scale != 1.0:
            # The layer is linear: the smaller factor is scaled, which at 4x4 is the input.
            if x.numel() < weight.numel():
                x = x * self.scale
            else:
                weight = weight * self.scale
        x = self.op(x, weight, bias)
        return x if self.norm is None else self.norm(x)

    @property
    def name(self) -> str:
        op = self.op.func if isinstance(self.op, partial) else self.op
        return op.__name__.replace("_", " ")


def dense(x: Tensor, weight: Tensor, bias: Tensor | None, grid: Sequence[int] = ()) -> Tensor:
    """[N, inputs] -> [N, outputs]; with a grid [N, channels, *grid], which the bias may have."""
    x = F.linear(x, weight)
    x = x.unflatten(1, (-1, *grid)) if grid else x
    return x if bias is None else x + bias


def unfused_up(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return convolution(enlarged(x), weight, bias)


def activation(leaky: bool = True, slope: float = 0.2) -> nn.Module:
    return nn.LeakyReLU(slope, inplace=True) if leaky else nn.ReLU(inplace=True)


class PixelNorm(nn.Module):
    """x over the root of its mean square along dimension 1, eps inside the root (section 4.2)."""

    def __init__(self, eps: float = 1e-8) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return x * (x.square().mean(1, keepdim=True) + self.eps).rsqrt()


def batch_norm(maps: int) -> nn.BatchNorm2d:
    """With the constants of Lasagne, which the paper's code was written with."""
    return nn.BatchNorm2d(maps, eps=1e-4, momentum=0.1)


class LayerNorm(nn.Module):
    """[N, maps, ...], over all but the first dimension; then one gain, and a bias for each map.

    Ba et al. 2016, as in the paper's code.
    """

    def __init__(self, maps: int, eps: float = 1e-4) -> None:
        super().__init__()
        self.eps = eps
        self.gain = nn.Parameter(torch.ones(()))
        self.bias = nn.Parameter(torch.zeros(maps))

    def forward(self, x: Tensor) -> Tensor:
        bias = self.bias.reshape(-1, *[1] * (x.dim() - 2))
        return F.layer_norm(x, x.shape[1:], eps=self.eps) * self.gain + bias


class MinibatchDiscrimination(nn.Module):
    """[N, features] -> [N, features + kernels]: how close each image is to the others of the batch.

    o_k(i) = b_k + sum over j != i of exp(-|M_k(i) - M_k(j)|_1), where M_k is a linear map to `dim`
    numbers (Salimans et al. 2016, section 3.2). Its columns have a direction and a length of their
    own, as in the code of these authors and of PGGAN's.

    Attributes:
        fitted: whether `fit` has been called, in this run or the one that the weights are from.
    """

    fitted: Tensor

    def __init__(self, features: int, kernels: int, dim: int = 5) -> None:
        super().__init__()
        self.direction = nn.Parameter(0.05 * torch.randn(features, kernels, dim))
        self.log_length = nn.Parameter(torch.zeros(kernels, dim))
        self.bias = nn.Parameter(torch.full((kernels,), -1.0))
        self.register_buffer("fitted", torch.tensor(False))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, (-self._distances(x)).exp().sum(1) + self.bias], 1)

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Lengths and biases from features of reals: an image's nearest is at a mean distance of 2
        and what is added to the features has a mean of 0.
        """
        nearest = self._distances(x).amin(1).mean(0)  # [kernels]
        self.log_length.sub_((nearest / 2).log()[:, None])
        self.bias.copy_(-(-self._distances(x)).exp().sum(1).mean(0))
        self.fitted.fill_(True)

    def _distances(self, x: Tensor) -> Tensor:
        """[N, N, kernels], in float32 at least; infinite from an image to itself."""
        weight = self.direction * (self.log_length.exp() / self.direction.norm(dim=0))
        maps = torch.einsum("nf,fkd->dnk", x, weight)
        maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
        distances = torch.full_like(maps[0, :, 0], torch.inf).diag()[:, :, None]
        for numbers in maps:  # one of `dim` at a time, for memory
            distances = distances + (numbers[:, None] - numbers).abs()
        return distances


class MinibatchStddev(nn.Module):
    """See `minibatch_stddev`."""

    def __init__(self, group_size: int = 4, neighbors: bool = False) -> None:
        super().__init__()
        self.group_size, self.neighbors = group_size, neighbors

    def forward(self, x: Tensor) -> Tensor:
        return minibatch_stddev(x, self.group_size, self.neighbors)


def minibatch_stddev(x: Tensor, group_size: int = 4, neighbors: bool = False) -> Tensor:
    """[N, C, H, W] -> [N, C + 1, H, W]: how much the images of a group differ (section 3).

    The standard deviation over the group of each feature at each place, averaged over both, in
    float32 at least. With M = N / group_size, image i belongs to group i mod M.

    Args:
        x: features.
        group_size: images a group; a smaller batch is one group.
        neighbors: groups of consecutive images, and the unbiased variance.

    Raises UserError if N is larger than group_size and no multiple of it.
    """
    n, c, h, w = x.shape
    group = min(group_size, n)
    if n % group:
        raise UserError(
            f"a batch of {n} images does not split into groups of {group_size}, which the "
            f"minibatch's standard deviation is taken over: use a batch_size (per process and "
            f"micro-batch) of {n - n % group} or {n - n % group + group}."
        )
    groups = x.reshape(-1, group, c, h, w) if neighbors else x.reshape(group, -1, c, h, w)
    dim = 1 if neighbors else 0
    groups = groups.to(torch.promote_types(x.dtype, torch.float32))
    variance = groups.var(dim, correction=int(neighbors and group > 1))
    spread = (variance + 1e-8).sqrt().mean((1, 2, 3)).to(x.dtype)  # one number a group
    spread = spread.repeat_interleave(group) if neighbors else spread.repeat(group)
    return torch.cat([x, spread.reshape(n, 1, 1, 1).expand(n, 1, h, w)], 1)


def feature_maps(stage: int, base: float = 8192, decay: float = 1.0, most: int = 512) -> int:
    """min(base / 2^(stage decay), most), rounded down; UserError if that is 0."""
    maps = min(int(base / 2 ** (stage * decay)), most)
    if maps < 1:
        raise UserError(
            f"fmap_base={base:g} and fmap_max={most} leave no feature maps for level {stage - 1}: "
            f"increase them, or make image_size smaller."
        )
    return maps
