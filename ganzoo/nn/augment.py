"""Differentiable augmentation of all images that the discriminator sees, reals and fakes.

Random numbers are drawn separately from their use: they are drawn once for a batch, which may then
be split into micro-batches, each with its own rows.
"""

import torch
from torch import Tensor

from ganzoo.draws import Draws, unit


class DiffAugment:
    """DiffAugment: color, translation and cutout, in this order (Zhao et al. 2020, section 3.2).

    `augment(images, u)` is a pure function, differentiable with respect to the images: [N, C, H, W]
    in [-1, 1] for any C, H and W; `u` are rows of `augment.draw(draws, N)`. The result has the
    shape, dtype and memory format of the images; colors may leave [-1, 1].
    """

    def __init__(self, color: bool = True, translation: bool = True, cutout: bool = True) -> None:
        self.color, self.translation, self.cutout = color, translation, cutout

    def draw(self, draws: Draws, n: int) -> Tensor:
        """Random numbers for n images, [n, k] from U[0, 1); k depends on the augmentations."""
        k = 3 * self.color + 2 * self.translation + 2 * self.cutout
        return draws.rows(n, k, of=unit)

    def __call__(self, images: Tensor, u: Tensor) -> Tensor:
        columns = iter(u.unbind(1))
        if self.color:
            images = recolor(images, next(columns), next(columns), next(columns))
        if self.translation:
            images = translate(images, next(columns), next(columns))
        if self.cutout:
            images = cut_out(images, next(columns), next(columns))
        return images


def recolor(images: Tensor, brightness: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    """Change brightness, saturation and contrast, each by its own u, in this order.

    Brightness adds u - 0.5 to all values; saturation scales each pixel's distance from its gray
    (the mean of its channels) by 2u; contrast scales the distance from the image's mean by u + 0.5.
    """
    # Saturation does not change the mean, so all three are one affine map of the image, its gray
    # and its mean: two passes over the image instead of nine.
    brightness, saturation, contrast = (
        u.to(images.dtype)[:, None, None, None] for u in (brightness, saturation, contrast)
    )
    added, contrast = brightness - 0.5, contrast + 0.5
    scale = contrast * saturation * 2
    gray = images.mean(1, keepdim=True)
    mean = gray.mean((2, 3), keepdim=True)
    return images * scale + ((contrast - scale) * gray + ((1 - contrast) * mean + added))


def translate(images: Tensor, u_down: Tensor, u_right: Tensor) -> Tensor:
    """Move images by whole pixels, at most an eighth of a side; zeros move in at the border."""
    height, width = images.shape[2:]
    row, row_inside = _moved_from(height, u_down)
    column, column_inside = _moved_from(width, u_right)
    # One gather from flat positions: several times faster than indexing by three tensors.
    source = (row[:, :, None] * width + column[:, None, :]).flatten(1)[:, None]
    moved = images.flatten(2).gather(2, source.expand(-1, images.shape[1], -1))
    inside = row_inside[:, :, None] & column_inside[:, None, :]
    moved = moved.view(images.shape) * inside[:, None]
    last = images.is_contiguous(memory_format=torch.channels_last)
    return moved.contiguous(memory_format=torch.channels_last) if last else moved


def _moved_from(size: int, u: Tensor) -> tuple[Tensor, Tensor]:
    """For each position along an axis: the position its value comes from, and if that exists."""
    reach = int(size / 8 + 0.5)
    shift = _integer(u, 2 * reach + 1) - reach
    source = torch.arange(size, device=u.device) - shift[:, None]
    return source.clamp(0, size - 1), (source >= 0) & (source < size)


def cut_out(images: Tensor, u_down: Tensor, u_right: Tensor) -> Tensor:
    """Set a rectangle of half the height and width to zero, its center anywhere in the image."""
    height, width = images.shape[2:]
    hole = _hole(height, u_down)[:, :, None] & _hole(width, u_right)[:, None, :]
    return images * ~hole[:, None]


def _hole(size: int, u: Tensor) -> Tensor:
    """For each position along an axis, whether it is cut out."""
    length = int(size / 2 + 0.5)
    # The center of an even length lies between pixels, where there is one more place for it.
    start = _integer(u, size + 1 - length % 2)[:, None] - length // 2
    position = torch.arange(size, device=u.device)
    return (position >= start) & (position < start + length)


def _integer(u: Tensor, n: int) -> Tensor:
    """Map U[0, 1) to integers in [0, n). In half precision u may be rounded up to 1: clamp."""
    return (u * n).long().clamp_(max=n - 1)
