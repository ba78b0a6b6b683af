"""Pixels of a batch on its device: conversion, flips, windows, sizes."""

import torch
import torch.nn.functional as F
from torch import Tensor


def to_float(images: Tensor) -> Tensor:
    """uint8 in 0..255 to float32 in [-1, 1]: x / 127.5 - 1."""
    return images.float().div_(127.5).sub_(1)


def to_uint8(images: Tensor) -> Tensor:
    """Floats to uint8: round(x * 127.5 + 127.5); values outside [-1, 1] are clipped."""
    return images.float().mul(127.5).add_(127.5).round_().clamp_(0, 255).to(torch.uint8)


def mirrored(images: Tensor, which: Tensor) -> Tensor:
    """Images [N, C, H, W], flipped left to right where `which`, bool [N], is true."""
    both = torch.cat([images, images.flip(-1)])  # faster than choosing between single pixels
    rows = torch.arange(len(images), device=images.device)
    return both.index_select(0, rows + len(images) * which)


def moved(images: Tensor | list[Tensor], device: torch.device | str) -> Tensor | list[Tensor]:
    """Images of a batch (a list if sizes vary) on `device`."""
    return [i.to(device) for i in images] if isinstance(images, list) else images.to(device)


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Float [N, C, H, W] to [N, C, *size].

    A reduction by whole factors is the mean over boxes; anything else is bilinear, antialiased.
    """
    height, width = images.shape[-2:]
    if (height, width) == size:
        return images
    if height % size[0] == 0 and width % size[1] == 0:
        return F.avg_pool2d(images, (height // size[0], width // size[1]))
    return F.interpolate(images, size, mode="bilinear", antialias=True)


def windows(images: Tensor, tops: Tensor, lefts: Tensor, size: tuple[int, int]) -> Tensor:
    """One window per image: [N, C, H, W] to [N, C, *size] with corners at (tops[i], lefts[i])."""
    n, channels = images.shape[:2]
    rows = tops[:, None] + torch.arange(size[0], device=images.device)
    columns = lefts[:, None] + torch.arange(size[1], device=images.device)
    item = torch.arange(n, device=images.device).view(n, 1, 1, 1)
    channel = torch.arange(channels, device=images.device).view(1, channels, 1, 1)
    return images[item, channel, rows[:, None, :, None], columns[:, None, None, :]]


def rgb(images: Tensor) -> Tensor:
    """Images of any number of channels as uint8 [N, 3, H, W], for networks for photographs.

    Gray is repeated, and transparent images are laid on white. Of two channels the first is taken
    as gray, of five or more the first three as colors.
    """
    channels = images.shape[1]
    if channels == 4:
        opacity = images[:, 3:].float() / 255
        return (images[:, :3] * opacity + 255 * (1 - opacity)).round().to(torch.uint8)
    if channels < 3:
        return images[:, :1].expand(-1, 3, -1, -1)
    return images[:, :3]
