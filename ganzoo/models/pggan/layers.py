"""The layers of progressive growing: equalized learning rate, normalization, minibatch statistics.

Sections are those of Karras et al. 2018 unless another paper is named.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganzoo.errors import UserError
from ganzoo.nn.layers import convolution, enlarged, fused_down, fused_up

SQRT2 = math.sqrt(2)  # He's gain (2015, equation 10): it keeps the variance through a ReLU
Op = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # input, weight, bias -> output


class Layer(nn.Module):
    """An operation whose weights are scaled at run time: the equalized learning rate (section 4.1).

    Weights are stored as w ~ N(0, 1) and used as w c with c = gain / sqrt(fan_in), He's constant.
    Adam's steps do not depend on the scale of a gradient, so all weights learn at the same speed
    relative to their range.

    Args:
        op: the operation, (input, weight, bias) -> output.
        shape: shape of the weights, [outputs, inputs, ...]; all but the first make up fan_in.
        gain: standard deviation of the used weights at the start, times sqrt(fan_in).
        wscale: False stores the scaled weights instead.
        scale_bias: whether the bias is scaled like the weights.
        bias: shape of the bias; None for [outputs].
        norm: makes the normalization of a number of feature maps. It has biases of its own, so the
            layer has none.
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
            # The operation is linear, so the smaller factor is scaled: at 4x4 that is the input.
            # A graph must not depend on the size of its input, and folds constant weights anyway.
            if not torch.compiler.is_exporting() and x.numel() < weight.numel():
                x = x * self.scale
            else:
                weight = weight * self.scale
        x = self.op(x, weight, bias)
        return x if self.norm is None else self.norm(x)

    @property
    def name(self) -> str:
        """The name of the operation, for a person to read."""
        op = self.op.func if isinstance(self.op, partial) else self.op
        return op.__name__.replace("_", " ")


@dataclass(frozen=True)
class Layers:
    """Makes layers that share the options of a network; see `Generator` and `Discriminator`."""

    wscale: bool = True
    leaky: bool = True
    slope: float = 0.2  # of the leaky ReLU
    fused_scale: bool = True
    pixelnorm: bool = False
    pixelnorm_eps: float = 1e-8
    norm: Callable[[int], nn.Module] | None = None  # makes the one before each activation
    gan_zoo: bool = False

    def conv(self, inputs: int, outputs: int, kernel: int = 3) -> Layer:
        return self._normalized(convolution, (outputs, inputs, kernel, kernel))

    def up(self, inputs: int, outputs: int) -> Layer:
        """A 3x3 convolution of the image with each pixel repeated 2x2."""
        return self._normalized(
            fused_up if self.fused_scale else unfused_up, (outputs, inputs, 3, 3)
        )

    def down(self, inputs: int, outputs: int) -> Layer:
        """A 3x3 convolution, with `fused_scale` averaged over boxes of 2x2; see `pool`."""
        return self._normalized(
            fused_down if self.fused_scale else convolution, (outputs, inputs, 3, 3)
        )

    def pool(self) -> nn.Module:
        """What remains to be averaged after `down` and its activation."""
        return nn.Identity() if self.fused_scale else nn.AvgPool2d(2)

    def dense(self, inputs: int, outputs: int) -> Layer:
        return self._normalized(dense, (outputs, inputs))

    def dense_to_grid(self, inputs: int, maps: int, grid: tuple[int, int]) -> Layer:
        """[N, inputs] -> [N, maps, *grid], with a bias for each map."""
        height, width = grid
        return self._normalized(
            partial(dense, grid=grid),
            (maps * height * width, inputs),
            # The official code's gain: that of a 4x4 convolution over a padded 1x1 image.
            gain=SQRT2 if self.gan_zoo else SQRT2 / 4,
            bias=(maps, height, width) if self.gan_zoo else (maps, 1, 1),
        )

    def to_rgb(self, maps: int, channels: int, kernel: int = 1) -> Layer:
        return self._plain(convolution, (channels, maps, kernel, kernel))

    def from_rgb(self, channels: int, maps: int) -> nn.Sequential:
        """A 1x1 convolution, never normalized, and an activation."""
        layer = self._plain(convolution, (maps, channels, 1, 1), activated=True)
        return nn.Sequential(layer, self.activation())

    def scores(self, inputs: int, outputs: int) -> Layer:
        return self._plain(dense, (outputs, inputs))

    def activation(self) -> nn.Module:
        return nn.LeakyReLU(self.slope, inplace=True) if self.leaky else nn.ReLU(inplace=True)

    def pixel_norm(self) -> nn.Module:
        return PixelNorm(self.pixelnorm_eps) if self.pixelnorm else nn.Identity()

    def _normalized(
        self,
        op: Op,
        shape: tuple[int, ...],
        gain: float = SQRT2,
        bias: tuple[int, ...] | None = None,
    ) -> Layer:
        return Layer(op, shape, gain, self.wscale, self.gan_zoo, bias, self.norm)

    def _plain(self, op: Op, shape: tuple[int, ...], activated: bool = False) -> Layer:
        """A layer without a norm; if no activation follows, its gain is 1."""
        gain = SQRT2 if activated or self.gan_zoo else 1.0
        return Layer(op, shape, gain, self.wscale, self.gan_zoo)


def dense(x: Tensor, weight: Tensor, bias: Tensor | None, grid: Sequence[int] = ()) -> Tensor:
    """[N, inputs] -> [N, outputs]; with a grid [N, maps, *grid], to which the bias is added."""
    x = F.linear(x, weight)
    x = x.unflatten(1, (-1, *grid)) if grid else x
    return x if bias is None else x + bias


def unfused_up(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return convolution(enlarged(x), weight, bias)


# -- normalization --------------------------------------------------------------------------------


class PixelNorm(nn.Module):
    """b = a / sqrt(mean_j a_j^2 + eps) over the feature maps j of each pixel (section 4.2)."""

    def __init__(self, eps: float = 1e-8) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return x * (x.square().mean(1, keepdim=True) + self.eps).rsqrt()


def batch_norm(maps: int) -> nn.BatchNorm2d:
    """BatchNorm with the constants of Lasagne, in which the paper's code was written."""
    return nn.BatchNorm2d(maps, eps=1e-4, momentum=0.1)


class LayerNorm(nn.Module):
    """Layer normalization of [N, maps, ...] with one gain, and one bias for each map.

    Ba et al. 2016; mean and variance are taken over all but the first dimension, as in the paper's
    code.
    """

    def __init__(self, maps: int, eps: float = 1e-4) -> None:
        super().__init__()
        self.eps = eps
        self.gain = nn.Parameter(torch.ones(()))
        self.bias = nn.Parameter(torch.zeros(maps))

    def forward(self, x: Tensor) -> Tensor:
        bias = self.bias.reshape(-1, *[1] * (x.dim() - 2))
        return F.layer_norm(x, x.shape[1:], eps=self.eps) * self.gain + bias


# -- how the images of a minibatch differ ---------------------------------------------------------


class MinibatchStddev(nn.Module):
    """Append the minibatch's standard deviation: [N, C, H, W] -> [N, C + 1, H, W] (section 3).

    The standard deviation over a group of each feature at each place, averaged over features and
    places: one number a group, constant over the new channel. The discriminator can thus notice
    that fakes vary less than reals. With M = N / group_size, image i belongs to group i mod M, as
    in the official code.

    Args:
        group_size: images in a group; a smaller batch is one group.
        neighbors: whether groups are of consecutive images, and the variance unbiased.

    Raises UserError: N is larger than group_size and not a multiple of it.
    """

    def __init__(self, group_size: int = 4, neighbors: bool = False) -> None:
        super().__init__()
        self.group_size, self.neighbors = group_size, neighbors

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        group, neighbors = min(self.group_size, n), self.neighbors
        if n % group:
            raise UserError(
                f"A batch of {n} images cannot be divided into groups of {group}, from which the "
                f"minibatch's standard deviation is taken: use a batch_size of {n - n % group} or "
                f"{n - n % group + group} for each process and micro-batch."
            )
        groups = x.reshape(-1, group, c, h, w) if neighbors else x.reshape(group, -1, c, h, w)
        # Squares of half-precision features would overflow: float32 at least.
        groups = groups.to(torch.promote_types(x.dtype, torch.float32))
        variance = groups.var(int(neighbors), correction=int(neighbors and group > 1))
        spread = (variance + 1e-8).sqrt().mean((1, 2, 3)).to(x.dtype)  # [groups]
        spread = spread.repeat_interleave(group) if neighbors else spread.repeat(group)
        return torch.cat([x, spread.reshape(n, 1, 1, 1).expand(n, 1, h, w)], 1)


class MinibatchDiscrimination(nn.Module):
    """Append how close each image is to the others: [N, features] -> [N, features + kernels].

    o_k(i) = b_k + sum over j != i of exp(-|M_k(i) - M_k(j)|_1), where M_k is a linear map to `dim`
    numbers (Salimans et al. 2016, section 3.2). Its columns have a direction and a length of their
    own, as in the code of these authors and of PGGAN's.
    """

    fitted: Tensor  # whether `fit` has been called, in this run or in that of the weights

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
        """Set lengths and biases from features of reals.

        Afterwards an image's nearest neighbor has a mean distance of 2, and what is appended has a
        mean of 0.
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
