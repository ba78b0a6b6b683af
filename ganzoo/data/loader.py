"""Processes that load images, and the signals that are meant for the one that trains."""

import os
import signal
from threading import Thread


def keep_working(worker: int) -> None:
    """To be run in a worker: only its parent can stop it.

    A terminal's Ctrl-C and SLURM's signals go to all processes. The one that trains finishes its
    iteration first, for which it may need another batch.

    Args:
        worker: its number, which a DataLoader gives to its `worker_init_fn`.
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
