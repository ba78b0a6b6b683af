"""The order in which images are shown: a function of the seed and the images seen."""

from collections.abc import Callable, Iterator
from functools import lru_cache

import torch
from torch import Tensor

from ganzoo.config.values import Count
from ganzoo.draws import seed_of
from ganzoo.errors import UserError

BatchSize = Count | Callable[[int], int]  # images per step on all devices; or from images seen
Size = tuple[int, int]  # height, width


class Indices(list[int]):
    """Indices of a batch, and the size in which to read its images; None for the full size."""

    size: Size | None = None


class Stream:
    """Endless batch sampler that starts anywhere: `DataLoader(..., batch_sampler=Stream(...))`.

    Epoch e, the positions [e * length, (e + 1) * length), visits every index of range(length) once,
    in an order that depends only on `seed` and e. A batch may span two epochs.

    An iteration is `steps` consecutive global batches of `batch_size`. Each list holds this rank's
    contiguous share of every one of them, so a step sees the same images on any number of devices.
    A function as `batch_size` receives the sampler's own position, so prefetching is safe.

    With `groups`, every group is shown equally often: an epoch repeats the smaller groups, in a new
    order each time, until they are as large as the largest. It is then longer than `length`.

    Args:
        batch_size: images of one step on all ranks, or a function from images seen to that number.
        start: images already seen, which is the position of the first batch.
        steps: number of global batches in an iteration.
        groups: group of each index, int64 [length], to balance; None to show every index once.
        sizes: size in which to read images, a function of images seen; None for the full size.

    Raises UserError: on iteration, if a batch size is not a positive multiple of `world`.
    """

    def __init__(
        self,
        length: int,
        batch_size: BatchSize,
        seed: int,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
        steps: int = 1,
        groups: Tensor | None = None,
        sizes: Callable[[int], Size] | None = None,
    ) -> None:
        self.length, self.batch_size, self.seed, self.start = length, batch_size, seed, start
        self.rank, self.world, self.steps, self.sizes = rank, world, steps, sizes
        self.members: list[Tensor] = []
        if groups is not None:
            self.members = [(groups == group).nonzero().flatten() for group in groups.unique()]
            self.length = max(map(len, self.members)) * len(self.members)

    def order(self, epoch: int) -> Tensor:
        """The indices of an epoch in order, int64: a permutation unless balanced."""
        generator = torch.Generator().manual_seed(seed_of(self.seed, "order", epoch))
        order = torch.randperm(self.length, generator=generator)
        if not self.members:
            return order
        share = self.length // len(self.members)
        slots = []
        for member in self.members:
            rounds = -(-share // len(member))
            turns = [torch.randperm(len(member), generator=generator) for _ in range(rounds)]
            slots.append(member[torch.cat(turns)[:share]])
        return torch.cat(slots)[order]

    def __iter__(self) -> Iterator[list[int]]:
        order = lru_cache(maxsize=2)(self.order)  # a batch may need this epoch and the next
        position = self.start
        while True:
            size = batch_size_at(self.batch_size, position, self.world)
            share = size // self.world
            batch = Indices()
            batch.size = None if self.sizes is None else self.sizes(position)
            for step in range(self.steps):
                at = position + step * size + self.rank * share
                stop = at + share
                while at < stop:
                    epoch, offset = divmod(at, self.length)
                    part = order(epoch)[offset : offset + stop - at].tolist()
                    batch += part
                    at += len(part)
            yield batch
            position += size * self.steps


def batch_size_at(batch_size: BatchSize, images_seen: int, world: int) -> int:
    """The global batch size at `images_seen`; UserError unless it is a multiple of `world`."""
    size = batch_size(images_seen) if callable(batch_size) else batch_size
    if size < 1 or size % world:
        raise UserError(
            f"A batch of {size} images cannot be shared equally by {world} device(s): "
            f"choose a batch_size that is a multiple of {world}, or another number of devices."
        )
    return size
