"""Reading batches ahead of the training step, in worker processes or in a thread."""

import logging
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Thread, current_thread, main_thread
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ganzoo.data.source import Source
from ganzoo.data.stream import Indices, Size
from ganzoo.errors import UserError

log = logging.getLogger(__name__)

# Workers hand over batches through sockets in the temporary folder, whose paths take up to 107
# bytes, 32 of them for names that Python chooses.
LONGEST_TEMP = 75


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
    an exception in a worker by the worker's traceback. `batch_bytes`, as far as known, shows
    whether workers can hand batches over.
    """

    def __init__(
        self, dataset: Dataset, order: Any, workers: int, batch_bytes: int = 0, **options: Any
    ) -> None:
        if workers and (why := _obstacle(2 * workers * batch_bytes)):  # each reads two ahead
            log.warning(
                "A thread reads the images instead of %d processes, since %s.", workers, why
            )
            workers = 0
        super().__init__(
            dataset,
            batch_sampler=order,
            collate_fn=unchanged,
            num_workers=workers,
            worker_init_fn=keep_working,
            **options,
        )
        self.waited = 0.0  # seconds spent waiting for batches

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        with _children_unwatched():
            read: Any = super().__iter__()
        batches = read if self.num_workers else _ahead(read)
        while True:
            start = time.perf_counter()
            try:
                batch = next(batches, None)
            except RuntimeError as error:
                if self.num_workers and any(worker.exitcode for worker in read._workers):
                    raise UserError(
                        "A process that reads images was killed, probably because memory or "
                        "/dev/shm is full: run the same command again with data.workers=1 or 0."
                    ) from error
                raise
            self.waited += time.perf_counter() - start
            if batch is None:
                return
            if isinstance(batch, UserError):
                raise batch
            yield batch


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _obstacle(need: int) -> str | None:
    """Why workers could not hand over `need` bytes; they would wait forever without an error."""
    folder, shared = tempfile.gettempdir(), Path("/dev/shm")
    if len(folder) > LONGEST_TEMP:
        return f"the path of the temporary folder ({folder}) is too long: set TMPDIR to another"
    if shared.is_dir() and (free := shutil.disk_usage(shared).free) < need:
        return (
            f"they need {need / 2**20:.1f} MiB of shared memory and {shared} has "
            f"{free / 2**20:.1f} MiB left: enlarge it (docker run --shm-size=1g) to use them"
        )
    return None


@contextmanager
def _children_unwatched() -> Iterator[None]:
    """Undo that torch raises an error wherever this process is when a worker is killed.

    Without its handler the error comes when the worker's batch is missed, between two iterations,
    so that the run can save its state.
    """
    if sys.platform == "win32" or current_thread() is not main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    yield
    signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)


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
    """Make a worker (by its number) ignore signals other than those of its parent.

    Ctrl-C in a terminal and SLURM's signals reach all processes. The training process first
    finishes its iteration, for which it may need another batch.
    """
    for name in {"SIGINT", "SIGUSR1"} & {*dir(signal)}:  # Windows has no SIGUSR1
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        Thread(target=_wait_for, args=[os.getppid()], daemon=True).start()


def _wait_for(parent: int) -> None:
    """End this process when its parent sends SIGTERM."""
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent:
        pass
    os._exit(0)
