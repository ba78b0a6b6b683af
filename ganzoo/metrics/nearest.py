"""The training images nearest to samples, by features of a network or by pixels."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ganzoo.data.pixels import rgb, to_float, to_uint8
from ganzoo.data.reference import CHUNK, Reference
from ganzoo.data.source import some
from ganzoo.metrics.cache import real_features
from ganzoo.metrics.extractors import Extractor

USUAL = 128  # training images whose nearest neighbors show what distance is usual
BLOCK = 8192  # rows of features compared at once


class Near(NamedTuple):
    """The training images nearest to each sample, the nearest first."""

    places: Tensor  # positions within the reference, int64 [N, K]
    distances: Tensor  # Euclidean, [N, K]
    usual: float  # the median distance between a training image and the nearest other one


def by_features(images: Tensor, reference: Reference, extractor: Extractor, num: int) -> Near:
    """The nearest by the features of a network, of images float [N, C, H, W] in [-1, 1]."""
    real = real_features(reference, extractor, images.device).features
    rows = torch.cat([extractor(rgb(to_uint8(part)))[0] for part in images.split(64)]).cpu()
    parts = ((start, real[start : start + BLOCK]) for start in range(0, len(real), BLOCK))
    chosen = torch.tensor(some(len(real), USUAL))
    return nearest(rows, real[chosen], chosen, parts, num, reference.images)


def by_pixels(images: Tensor, reference: Reference, num: int) -> Near:
    """The nearest by pixels in [-1, 1], of images float [N, C, H, W]."""

    def parts(which: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        for chunk in reference.chunks(which, images.device):
            yield int(chunk.places[0]), to_float(chunk.images).flatten(1)

    chosen = torch.tensor(some(len(reference), USUAL)).sort().values
    reals = []
    for start, rows in parts((chosen // CHUNK).unique().tolist()):
        reals.append(rows[chosen[(chosen >= start) & (chosen < start + len(rows))] - start])
    rows = images.float().clamp(-1, 1).flatten(1)
    every = parts(range(reference.num_chunks))
    return nearest(rows, torch.cat(reals), chosen, every, num, reference.images)


def nearest(
    rows: Tensor, reals: Tensor, places: Tensor, parts: Iterable[tuple[int, Tensor]], num: int,
    images: Tensor,
) -> Near:  # fmt: skip
    """The nearest of many training images to each of some samples, by Euclidean distance.

    Args:
        rows: samples [N, D].
        reals: some training images [M, D], whose own neighbors show what distance is usual.
        places: places of `reals` within the reference [M].
        parts: all training images, as pairs of the first place and rows [n, D].
        num: neighbors to find for each sample.
        images: number of the image at each place; a flipped one has that of the original.
    """
    queries = torch.cat([rows, reals.to(rows)])
    found = torch.empty(len(queries), 0, dtype=torch.int64)
    distances = torch.empty(len(queries), 0)
    for start, others in parts:
        exactly = "donot_use_mm_for_euclid_dist"
        far = torch.cdist(queries, others.to(queries), compute_mode=exactly).cpu()
        here = torch.arange(start, start + len(others)).expand(len(queries), -1)
        itself = images[here[len(rows) :]] == images[places][:, None]  # or its mirror image
        far[len(rows) :][itself] = torch.inf
        far, order = torch.cat([distances, far], 1).sort(dim=1, stable=True)
        found = torch.cat([found, here], 1).gather(1, order[:, :num])
        distances = far[:, :num]
    usual = float(distances[len(rows) :, 0].median())
    return Near(found[: len(rows)], distances[: len(rows)], usual)


def at(reference: Reference, places: Tensor) -> Tensor:
    """Images of a reference by their places, float [N, C, H, W] in [-1, 1]."""
    return torch.cat(
        [
            to_float(chunk.images[place % CHUNK : place % CHUNK + 1]).cpu()
            for place in places.tolist()
            for chunk in reference.chunks([place // CHUNK])
        ]
    )
