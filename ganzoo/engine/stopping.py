"""Signals that stop a run: at once while nothing can be lost, after the iteration in training."""

import atexit
import signal
import threading
from collections.abc import Callable
from types import FrameType

from ganzoo.engine.control import Control

SIGUSR1 = getattr(signal, "SIGUSR1", None)  # which Windows does not have
SIGNALS = tuple(filter(None, (signal.SIGTERM, signal.SIGINT, SIGUSR1)))
Handler = Callable[[int, FrameType | None], None] | signal.Handlers

_early = 0  # the SIGUSR1 that arrived before training, which has no `Control` yet


class Stopped(SystemExit):
    """A signal ended the run outside of training: exit code 128 + its number."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.name = signal.Signals(number).name


def begin() -> None:
    """For commands: from now on, signals stop this process as `at_once` says."""
    global _early
    _early = 0  # of an earlier run of a sweep
    at_once()
    atexit.unregister(_end)
    atexit.register(_end)


def at_once() -> None:
    """SIGTERM and Ctrl-C raise `Stopped` where they arrive: before training and after it.

    SIGUSR1 is remembered: the scheduler sends it long before the time is up, and a run must have
    trained and saved before it can be requeued.
    """
    _handle(_stop)


def after_the_iteration(control: Control) -> None:
    """Signals are written into `control`, for the run to stop between two iterations."""
    global _early
    control.signal, _early = control.signal or _early, 0

    def remember(number: int, frame: FrameType | None) -> None:
        if control.signal and number == signal.SIGINT:
            raise Stopped(number)
        # The first one counts: a scheduler sends SIGTERM as well when the time is up.
        control.signal = control.signal or number

    _handle(remember)


def _stop(number: int, frame: FrameType | None) -> None:
    global _early
    if number != SIGUSR1:
        raise Stopped(number)
    _early = number


def _end() -> None:
    """An exception while the interpreter shuts down would be printed, and stop nothing."""
    _handle(signal.SIG_DFL)


def _handle(handler: Handler) -> None:
    if threading.current_thread() is threading.main_thread():  # others have no signals
        for number in SIGNALS:
            signal.signal(number, handler)
