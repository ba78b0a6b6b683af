"""Looking at every image of a source once, on all cores, whatever cannot be read."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ganzoo.data.source import Source
from ganzoo.errors import UserError

Batch = dict[str, Tensor]


class Seen(NamedTuple):
    """What came of some images."""

    indices: list[int]  # that were read
    bad: dict[int, str]  # a sentence for each that was not
    found: Any  # what `look` returned, None if no image was read


def sweep(
    source: Source,
    chunks: Sequence[list[int]],
    look: Callable[[list[int], Batch], Any],
    workers: int,
    what: str,
) -> Iterator[Seen]:
    """`look(indices, batch)` on every chunk of images, in order, with a progress bar.

    Args:
        chunks: indices that are read together.
        look: runs in a worker process, on those images of a chunk that can be read; must be
            picklable.
        workers: processes; 0 for this one alone.
        what: written before the bar.

    Raises:
        UserError: the source delivers images of several sizes.
    """
    if source.varies:
        raise UserError(
            f"{source.name} delivers images of several sizes, here they have to be of one: set "
            "resize=crop or resize=stretch."
        )
    loader = DataLoader(
        _Looked(source, look), batch_sampler=chunks, collate_fn=_as_it_is, num_workers=workers
    )
    with tqdm(
        desc=what, total=sum(map(len, chunks)), unit=" images", dynamic_ncols=True, disable=None
    ) as bar:
        for seen in loader:
            yield seen
            bar.update(len(seen.indices) + len(seen.bad))


class _Looked(Dataset):
    def __init__(self, source: Source, look: Callable[[list[int], Batch], Any]) -> None:
        self.source, self.look = source, look

    def __getitems__(self, indices: list[int]) -> Seen:
        bad: dict[int, str] = {}
        try:
            batch = self.source.__getitems__(indices)
        except UserError:  # which of them it is shows one by one
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


def _as_it_is(seen: Any) -> Any:
    return seen
