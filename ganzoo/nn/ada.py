"""Adaptive discriminator augmentation: how much to augment follows from how reals are judged.

Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data": `ADA` applies the
transforms of its appendix B by a probability p (pixel blitting, geometry and color, which the
authors' code calls "bgc"), and moves p when the discriminator becomes too sure of the reals.
"""

import math
from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganzoo.config.values import Count, Range, Share
from ganzoo.distributed.collectives import sum_over_processes
from ganzoo.draws import Draws, unit
from ganzoo.errors import UserError

# The low-pass filter of the wavelet sym6, from tables of wavelets. It is orthogonal to itself moved
# by two: pictures that it enlarged twofold are restored by shrinking them with it.
SYM6 = (
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633,
    0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252,
    -0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148,
)  # fmt: skip
MIDDLE = 5  # the tap of the filter at a pixel's own position

# -- the probability ------------------------------------------------------------------------------


class ADA(nn.Module):
    """Transforms that each image meets with probability p, which is steered during training.

    `augment(images, u)` is a pure function of its arguments and of p, differentiable to any order
    with respect to the images: [N, C, H, W] in [-1, 1]; `u` are rows of `augment.draw(draws, N)`.
    The result has the shape, dtype and memory format of the images; colors may leave [-1, 1].

    p is kept in whole images: every `interval` iterations it moves by the images of these
    iterations, up if the mean sign of the reals' logits is above `target`, else down. It stays in
    [0, 1]; in the authors' code it may exceed 1, which changes no image but delays its way back.
    Its state is part of a checkpoint.

    Args:
        target: mean sign of the reals' logits that p aims at, 0 to 1; None to leave p as it is.
        kimg: thousands of images in which p moves from 0 to 1.
        interval: iterations between two changes of p.
        p: probability at the start.
        blit: whether to mirror, turn by quarters, and move by whole pixels.
        geometry: whether to scale, turn, stretch, and move by fractions of pixels.
        color: whether to change brightness, contrast, luma, hue and saturation; None: if images
            have 1 or 3 channels. Hue and saturation do not change those of one channel.
    """

    level: Tensor
    recent: Tensor
    fresh: Tensor
    iterations: Tensor

    def __init__(
        self,
        target: Share | None = 0.6,
        kimg: Annotated[float, Range(0.001, 1e9)] = 500.0,
        interval: Count = 4,
        p: Share = 0.0,
        blit: bool = True,
        geometry: bool = True,
        color: bool | None = True,
    ) -> None:
        super().__init__()
        self.target, self.interval, self.images = target, interval, round(kimg * 1000)
        self.blit, self.geometry, self.color = blit, geometry, color
        # Integers: sums over micro-batches and processes are exact, whatever the precision.
        self.register_buffer("level", torch.tensor(round(p * self.images)))  # p, in images
        self.register_buffer("recent", torch.zeros(2, dtype=torch.int64))  # signs, images
        self.register_buffer("fresh", torch.zeros(2, dtype=torch.int64))  # of this iteration
        self.register_buffer("iterations", torch.tensor(0))

    @property
    def p(self) -> Tensor:
        """The probability of a transform now: a scalar on the device."""
        return self.level / self.images

    @torch.no_grad()
    def watch(self, real: Tensor, boundary: Tensor | float) -> None:
        """Count the signs of a discriminator's logits of augmented reals, above `boundary`."""
        self.fresh[0] += (real - boundary).sign().long().sum()
        self.fresh[1] += real.numel()

    @torch.no_grad()
    def adapt(self) -> dict[str, Tensor]:
        """End an iteration: move p if it is time; returns the numbers to report."""
        fresh = sum_over_processes(self.fresh)
        self.fresh.zero_()
        if self.target is not None:
            # Reading the numbers would wait for the device: it decides by multiplication.
            self.recent += fresh
            self.iterations += 1
            due = self.iterations % self.interval == 0
            signs, images = self.recent
            self.level += (signs / images - self.target).sign().long() * images * due
            self.level.clamp_(0, self.images)
            self.recent *= ~due
        return {"augment/p": self.p, "augment/real_sign": fresh[0] / fresh[1]}

    def draw(self, draws: Draws, n: int) -> Tensor:
        """Random numbers for n images, [n, 28] from U[0, 1)."""
        return draws.rows(n, 28, of=unit)

    def forward(self, images: Tensor, u: Tensor) -> Tensor:
        dtype = torch.promote_types(images.dtype, torch.float32)  # positions need more than half
        columns, p = iter(u.to(dtype).unbind(1)), self.p.to(dtype)
        last = images.is_contiguous(memory_format=torch.channels_last)
        with torch.autocast(images.device.type, enabled=False):
            found = images.to(dtype)
            found = moved(found, columns, p * self.blit, p * self.geometry)
            if self.color or (self.color is None and images.shape[1] in COLORED):
                found = recolored(found, columns, p)
        layout = torch.channels_last if last else torch.contiguous_format
        return found.to(images.dtype).contiguous(memory_format=layout)


def chosen(columns: Iterator[Tensor], p: Tensor, value: Tensor, otherwise: float = 0.0) -> Tensor:
    """The value with probability p, by the next column."""
    return torch.where(next(columns) < p, value, otherwise)


def normal(u: Tensor) -> Tensor:
    """N(0, 1) from U[0, 1), by the inverse of its distribution; finite at 0 and 1, too."""
    return math.sqrt(2) * torch.erfinv((2 * u - 1).clamp(2**-23 - 1, 1 - 2**-23))


# -- pixel blitting and geometry ------------------------------------------------------------------


def moved(images: Tensor, columns: Iterator[Tensor], blit: Tensor, geometry: Tensor) -> Tensor:
    """Images under one affine map each, with borders that mirror the image.

    As in the authors' code, images are enlarged twofold by the filter of sym6, sampled bilinearly,
    and shrunk by the same filter. Two things differ. An image that only moves by whole pixels keeps
    their values exactly. And what lies beyond a border is mirrored after enlarging instead of
    before, as often as it takes, which needs no margins that depend on the numbers drawn.
    """
    (right, down), still = places(columns, blit, geometry, images)
    height, width = images.shape[2:]

    like: dict[str, Any] = {"dtype": images.dtype, "device": images.device}

    def grid(finer: bool) -> Tensor:
        """Where the pixels come from; `finer`: two for each, and those that the filter adds."""
        rows, row = (
            (torch.arange(2 * n + 10, **like) - MIDDLE) / 2 if finer else torch.arange(n, **like)
            for n in (height, width)
        )
        below, beside = (rows - (height - 1) / 2)[:, None], row - (width - 1) / 2
        found = [
            (of[:, :1, None] * beside + of[:, 1:2, None] * below + of[:, 2:, None]) * 2 / (n - 1)
            for of, n in ((right, width), (down, height))
        ]
        return torch.stack(found, -1)  # the first and the last pixel are at -1 and 1

    exact = Sampled.apply(images, grid(False), NEAREST)
    large = enlarging(height, **like) @ images @ enlarging(width, **like).mT
    large = Sampled.apply(large, grid(True), BILINEAR)
    warped = shrinking(height, **like) @ large @ shrinking(width, **like).mT
    return torch.where(still[:, None, None, None], exact, warped)


def places(
    columns: Iterator[Tensor], blit: Tensor, geometry: Tensor, images: Tensor
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Where each image gets its pixels from, and which images [N] move by whole pixels only.

    The first two, [N, 3] each, say how far to the right of the image's center, and how far below
    it, a pixel of the result comes from: factors of its own two distances, and a constant.
    """
    u, (height, width) = columns, images.shape[2:]
    mirror = 1 - 2 * chosen(u, blit, next(u).round())
    quarters = chosen(u, blit, (4 * next(u)).floor() * (math.pi / 2))
    gate = torch.where(next(u) < blit, 2.0, 0.0)
    steps = [(gate * (next(u) - 0.5) * size / 8).round() for size in (width, height)]
    # Two rotations, each with the probability that makes one of them or both happen with p.
    turns = 1 - (1 - geometry).sqrt()
    scale = chosen(u, geometry, (0.2 * normal(next(u))).exp2(), 1.0)
    before = chosen(u, turns, (2 * next(u) - 1) * math.pi)
    stretch = chosen(u, geometry, (0.2 * normal(next(u))).exp2(), 1.0)
    after = chosen(u, turns, (2 * next(u) - 1) * math.pi)
    gate = torch.where(next(u) < geometry, 0.125, 0.0)
    shifts = [gate * normal(next(u)) * size for size in (width, height)]

    # From the result back to the image, so in reverse order.
    place = torch.arange(3, device=images.device)
    x, y, one = ((place == i).to(images.dtype) for i in range(3))
    x, y = x - shifts[0][:, None] * one, y - shifts[1][:, None] * one
    x, y = turned(x, y, after)
    x, y = x / stretch[:, None], y * stretch[:, None]
    x, y = turned(x, y, before)
    x, y = x / scale[:, None], y / scale[:, None]
    x, y = x - steps[0][:, None] * one, y - steps[1][:, None] * one
    x, y = turned(x, y, quarters)
    still = (scale == 1) & (stretch == 1) & (before == 0) & (after == 0) & (gate == 0)
    return (mirror[:, None] * x, y), still


def turned(x: Tensor, y: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    return cos * x - sin * y, sin * x + cos * y


NEAREST, BILINEAR, REFLECTION = 1, 0, 2  # as torch numbers them


class Sampled(torch.autograd.Function):
    """Images [N, C, H, W] at places [N, h, w, 2], as `torch.nn.functional.grid_sample` takes them.

    With `size`, its transpose: values [N, C, h, w] add up to images of this height and width at
    these places. Each is the other's gradient, so that both can be differentiated to any order,
    unlike the function of torch 2.9.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: Tensor, mode: int, size: Any = None) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.mode, ctx.size = mode, None if size else x.shape[2:]
        if size is None:
            return torch.grid_sampler_2d(x, grid, mode, REFLECTION, True)
        images = x.new_empty(*x.shape[:2], *size)  # only its shape matters
        backward = torch.ops.aten.grid_sampler_2d_backward
        return backward(x, images, grid, mode, REFLECTION, True, [True, False])[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return Sampled.apply(grad, *ctx.saved_tensors, ctx.mode, ctx.size), None, None, None


@cache
def enlarging(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The matrix [2 size - 1, size] that puts a value between any two neighbors."""
    reach = torch.arange(-3, size + 3)
    source = (reach % (2 * size - 2) - size + 1).abs().neg() + size - 1  # mirrored at both ends
    matrix = torch.zeros(2 * size - 1, size, dtype=torch.float64)
    matrix.index_add_(1, source, 2 * taps(torch.arange(2 * size - 1)[:, None] - 2 * reach + MIDDLE))
    return matrix.to(device, dtype)


@cache
def shrinking(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The matrix [size, 2 size + 10] that halves a row which reaches 5 and 6 places further."""
    matrix = taps(torch.arange(2 * size + 10) - 2 * torch.arange(size)[:, None])
    return matrix.to(device, dtype)


def taps(index: Tensor) -> Tensor:
    """Values of the filter, scaled to a sum of 1; 0 outside of it."""
    values = F.pad(torch.tensor(SYM6, dtype=torch.float64), (1, 1))
    return values[(index + 1).clamp(0, len(SYM6) + 1)] / sum(SYM6)


# -- color ----------------------------------------------------------------------------------------

COLORED = (1, 3)  # channels of images whose colors can be changed: gray and RGB


def recolored(images: Tensor, columns: Iterator[Tensor], p: Tensor) -> Tensor:
    """Change brightness, contrast, luma, hue and saturation, in this order.

    The luma axis is (1, 1, 1). Brightness moves along it; contrast scales everything; the luma flip
    mirrors the axis; hue turns around it; saturation scales the distance from it. Raises
    `UserError` if images have neither 1 nor 3 channels.
    """
    if images.shape[1] not in COLORED:
        raise UserError(
            f"ADA can change the colors of gray and of RGB images, but these have "
            f"{images.shape[1]} channels: set model.augment.color=null or channels=3."
        )
    u = columns
    added = chosen(u, p, 0.2 * normal(next(u)))
    contrast = chosen(u, p, (0.5 * normal(next(u))).exp2(), 1.0)
    luma = contrast * (1 - 2 * chosen(u, p, next(u).round()))
    hue = chosen(u, p, (2 * next(u) - 1) * math.pi)
    chroma = contrast * chosen(u, p, normal(next(u)).exp2(), 1.0)
    # A pixel is its mean plus the rest, which is perpendicular to the axis and turns with it:
    # cos(hue) of the rest, and sin(hue) of its cross product with the axis.
    along, across = chroma * hue.cos(), chroma * hue.sin() / math.sqrt(3)
    along, across, luma, added = (
        values[:, None, None, None] for values in (along, across, luma, added)
    )
    mean = images.mean(1, keepdim=True)
    perpendicular = images.roll(1, 1) - images.roll(-1, 1)
    return images * along + perpendicular * across + ((luma - along) * mean + luma * added)
