"""Real images as networks see them, always in the same order, for metrics to compare with."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from ganzoo.data.images import ImageData
from ganzoo.data.loader import Batches, Loader
from ganzoo.data.pixels import moved, to_uint8
from ganzoo.draws import Draws, seed_of
from ganzoo.errors import UserError

CHUNK = 64  # images that are read together, for any batch size and number of processes


def mixed(index: Tensor, num: int | None = None) -> Tensor:
    """Permuted numbers of some of `num` samples, so that neighbors are no longer related."""
    return _order(len(index) if num is None else num)[index]


@lru_cache(maxsize=8)
def _order(num: int) -> Tensor:
    return torch.randperm(num, generator=Generator().manual_seed(seed_of("mixed", num)))


class Chunk(NamedTuple):
    """Some images, uint8 [n, C, H, W], their places in the reference, and labels if any."""

    places: Tensor
    images: Tensor
    label: Tensor | None


class Reference:
    """Images of `data` after cropping, flipping and resizing, in 8 bits.

    There are at most `num`, the same for every seed, as are random crops. With `mirror` every image
    is added flipped; None for the same as in `data`.
    """

    def __init__(self, data: ImageData, num: int | None = None, mirror: bool | None = None) -> None:
        if num is not None and num < 2:
            raise UserError(f"Metrics need at least 2 real images: raise num_real from {num}.")
        self.data, self.num = data, num
        self.mirror = data.mirror if mirror is None else mirror
        if self.mirror and not data.mirror:
            raise UserError("Flipped real images need data.mirror=true.")
        images = len(data.source)
        self._order = torch.arange(2 * images if self.mirror else images)
        if num is not None and num < len(self._order):
            generator = Generator().manual_seed(seed_of("reference"))
            order = torch.randperm(len(self._order), generator=generator)
            self._order = self._order[order[:num].sort().values]

    def __len__(self) -> int:
        return len(self._order)

    @property
    def images(self) -> Tensor:
        """The number of each image in the source, int64 [len(self)]."""
        return self._order % len(self.data.source)

    def mirrored(self, place: int) -> bool:
        """Whether the image at this place of the reference is flipped."""
        return bool(self._order[place] >= len(self.data.source))

    def chunks(self, which: Sequence[int], device: torch.device | str = "cpu") -> Iterator[Chunk]:
        """The chunks with the given numbers, on `device`."""
        loader = Loader(
            Batches(self.data.source),
            [self._part(number).tolist() for number in which],
            self.data.workers,
            CHUNK * math.prod(self.data.source.shape),
        )
        for number, batch in zip(which, loader, strict=False):
            read = moved(batch["image"], device)
            draws = Draws(0, "reference", number, device=device)
            images = to_uint8(self.data.shown(read, batch["mirror"].to(device), draws))
            start = number * CHUNK
            yield Chunk(torch.arange(start, start + len(images)), images, batch.get("label"))

    @property
    def num_chunks(self) -> int:
        return -(-len(self) // CHUNK)

    def key(self) -> str:
        """SHA-256 of the content of the images and of all steps before the metrics."""
        data = self.data
        digest = hashlib.sha256(data.source.digest(self.images.unique().tolist()).encode())
        digest.update(repr((self._order.tolist(), data.image_size, data.crop, CHUNK)).encode())
        return digest.hexdigest()

    def facts(self) -> dict[str, Any]:
        """Facts about the images, for a protocol."""
        source = self.data.source
        return {
            "data": source.name,
            "split": source.split or None,
            "images": len(self),
            "shape": [source.shape[0], *self.data.image_size],
            "crop": self.data.crop,
            "mirror": self.mirror,
        }

    def _part(self, number: int) -> Tensor:
        return self._order[number * CHUNK : (number + 1) * CHUNK]
