"""Computed images in any number and size, for tests and benchmarks."""

import math
from typing import Annotated

import torch
from torch import Tensor

from ganzoo.config.values import Positive, Range, Sides
from ganzoo.data.source import Source, pair


class Synthetic(Source):
    """A disc on a gradient. The class sets the colors; the index sets place, size and direction.

    Args:
        classes: number of classes, which alternate; 0 for images without labels.
    """

    def __init__(
        self,
        num: Positive,
        image_size: Sides,
        channels: int = 3,
        classes: Annotated[int, Range(0, 1_000_000)] = 10,
    ) -> None:
        self.name = "synthetic"
        self.num, self.shape = num, (channels, *pair(image_size))
        self.classes = [f"class {c}" for c in range(classes)] or None

    def labels(self) -> Tensor | None:
        return torch.arange(self.num) % len(self.classes) if self.classes else None

    def __len__(self) -> int:
        return self.num

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        index = torch.tensor(indices)
        label = index % len(self.classes or [None])
        batch = {"image": _draw(index, label.float() / len(self.classes or [None]), self.shape)}
        return {**batch, "label": label} if self.classes else batch


def _draw(index: Tensor, hue: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """uint8 [n, *shape] from int64 index [n] and hue [n] in [0, 1)."""
    channels, height, width = shape
    y = torch.linspace(-1, 1, height, dtype=torch.float32).view(-1, 1)
    x = torch.linspace(-1, 1, width, dtype=torch.float32)
    # Fractional parts of multiples of irrational numbers fill [0, 1) evenly and never repeat.
    steps = torch.tensor([2, 3, 5, 7], dtype=torch.float64).sqrt()
    u = (index[:, None] * steps).frac().float().view(-1, 4, 1, 1)
    angle = 2 * math.pi * u[:, 0]
    gradient = (x * angle.cos() + y * angle.sin()) / 4 + 0.5
    center_x, center_y, radius = u[:, 1] - 0.5, u[:, 2] - 0.5, 0.25 + 0.25 * u[:, 3]
    disc = (x - center_x) ** 2 + (y - center_y) ** 2 < radius**2
    phase = hue[:, None] + torch.arange(channels).float() / channels
    color = (0.5 + 0.5 * torch.cos(2 * math.pi * phase))[:, :, None, None]
    image = torch.where(disc[:, None], color, gradient[:, None] * (1 - color))
    return (image * 255).round().clamp(0, 255).to(torch.uint8)
