"""Reading every image of a source once, on all cores, including images that cannot be read."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from ganzoo.data.loader import Loader
from ganzoo.data.module import Batch
from ganzoo.data.source import Source
from ganzoo.distributed.collectives import rank
from ganzoo.errors import UserError

CHUNK_BYTES = 8 * 2**20


class Seen(NamedTuple):
    """The result of one chunk of images."""

    indices: list[int]  # images that were read
    bad: dict[int, str]  # a sentence for each image that cannot be read
    found: Any  # the result of `look`, None if no image was read


def chunks_of(source: Source, most: int) -> list[list[int]]:
    """The indices of all images in order, in chunks of at most `most` images and CHUNK_BYTES."""
    step = max(1, min(most, CHUNK_BYTES // math.prod(source.shape)))
    return [list(range(len(source))[start : start + step]) for start in range(0, len(source), step)]


def sweep(
    source: Source,
    chunks: Sequence[list[int]],
    look: Callable[[list[int], Batch], Any],
    workers: int,
    what: str,
) -> Iterator[Seen]:
    """Call `look(indices, batch)` on every chunk of images, in order, with a progress bar.

    Args:
        source: images of one size.
        look: function that runs in a worker process, on those images of a chunk that can be read;
            must be picklable.
        workers: number of processes; 0 for this process alone.
    """
    if source.varies:
        raise UserError(f"{source.name} has several sizes: set resize=crop or resize=stretch.")
    loader = Loader(_Looked(source, look), chunks, workers)
    with progress(what, sum(map(len, chunks))) as bar:
        for seen in loader:
            yield seen
            bar.update(len(seen.indices) + len(seen.bad))


def progress(what: str, total: int, leave: bool = True) -> tqdm:
    """A progress bar that counts images, in the first process and if there is a terminal."""
    hidden = None if rank() == 0 else True
    return tqdm(
        desc=what, total=total, unit=" images", dynamic_ncols=True, leave=leave, disable=hidden
    )


class _Looked(Dataset):
    def __init__(self, source: Source, look: Callable[[list[int], Batch], Any]) -> None:
        self.source, self.look = source, look

    def __getitems__(self, indices: list[int]) -> Seen:
        bad: dict[int, str] = {}
        try:
            batch = self.source.__getitems__(indices)
        except UserError:  # read them one by one to find out which cannot be read
            singles: dict[int, Batch] = {}
            for index in indices:
                try:
                    singles[index] = self.source.__getitems__([index])
                except UserError as error:
                    bad[index] = str(error)
            indices = list(singles)
            if not indices:
                return Seen([], bad, None)
            keys = singles[indices[0]]
            batch = {key: torch.cat([one[key] for one in singles.values()]) for key in keys}
        return Seen(indices, bad, self.look(indices, batch))
