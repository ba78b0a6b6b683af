"""The same few images of a data set each time, for callbacks and reports."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from ganzoo.data.images import ImageData
from ganzoo.data.pixels import moved
from ganzoo.draws import Draws, seed_of


def some(length: int, num: int) -> list[int]:
    """Up to `num` different numbers below `length`, the same each time."""
    generator = Generator().manual_seed(seed_of("some", length))
    return torch.randperm(length, generator=generator)[:num].tolist()


def shown(
    data: ImageData, indices: Sequence[int], device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """Some images as networks see them, not mirrored, [N, C, H, W], and their labels [N] if any."""
    batch = data.source.__getitems__(list(indices))
    plain = torch.zeros(len(indices), dtype=torch.bool, device=device)
    images = data.shown(moved(batch["image"], device), plain, Draws(0, "shown", device=device))
    labels = batch.get("label")
    return images, None if labels is None else labels.to(device)
