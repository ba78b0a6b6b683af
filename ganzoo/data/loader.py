"""Reading batches ahead of the training step, in worker processes or in a thread."""

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Thread
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ganzoo.data.source import Source
from ganzoo.data.stream import Indices, Size
from ganzoo.errors import UserError


class Batches(Dataset):
    """The images of a source twice: from len(source) on they are to be mirrored."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._smaller: dict[Size, Source] = {}

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor] | UserError:
        length = len(self.source)
        try:
            source = self._at(indices.size if isinstance(indices, Indices) else None)
            batch = source.__getitems__([i % length for i in indices])
        except UserError as error:
            return error  # see Loader
        return {**batch, "mirror": torch.tensor([i >= length for i in indices])}

    def _at(self, size: Size | None) -> Source:
        """The source with images of that size if it has them, else the source itself."""
        if size is None:
            return self.source
        if size not in self._smaller:
            self._smaller[size] = self.source.smaller(size) or self.source
        return self._smaller[size]


class Loader(DataLoader):
    """Raises UserErrors that arrive in place of batches; without workers, reads one batch ahead.

    Datasets return a UserError instead of raising it because PyTorch would replace the message of
    an exception in a worker by the worker's traceback.

    Attributes:
        waited: seconds spent waiting for batches.
    """

    waited = 0.0

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"worker_init_fn": keep_working, **options})

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        read = super().__iter__()
        batches = read if self.num_workers else _ahead(read)
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - start
            if batch is None:
                return
            if isinstance(batch, UserError):
                raise batch
            yield batch


def _ahead(batches: Iterator[Any]) -> Iterator[Any]:
    """The same batches; a thread reads the next one while the current one is used."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = thread.submit(next, batches, None)
            yield batch


def unchanged(batch: Any) -> Any:
    """Collate nothing: datasets here return complete batches."""
    return batch


def keep_working(worker: int) -> None:
    """Make a worker ignore signals other than those of its parent.

    Ctrl-C in a terminal and SLURM's signals reach all processes. The training process first
    finishes its iteration, for which it may need another batch.

    Args:
        worker: number of the worker, which `worker_init_fn` of a DataLoader receives.
    """
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        Thread(target=_wait_for, args=[os.getppid()], daemon=True).start()


def _wait_for(parent: int) -> None:
    """End this process when its parent sends SIGTERM."""
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent:
        pass
    os._exit(0)
