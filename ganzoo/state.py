"""`state.json`: what a run folder tells of its run while it is going on, and after.

One process owns a run folder at a time. The file names it, so that a second one is refused, and so
that a run whose process was killed is not taken for one that goes on.
"""

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psutil

from ganzoo.errors import UserError

FILE = "state.json"
BEAT = 30.0  # seconds between two signs of life
SILENCE = 300.0  # seconds without one after which a process on another machine is given up
STATES = ("running", "done", "stopped", "failed")


@dataclass(frozen=True)
class State:
    """What is known of a run.

    Attributes:
        state: one of `STATES`.
        sentence: why it stopped or failed.
        about: the run's name, the model, data and experiment that were chosen, the keys given.
        host, pid, started: of the process; `started` is when it did, in seconds since 1970.
        job: of the cluster's scheduler; one that was requeued takes over from itself.
        since: when the state began, ISO 8601.
    """

    state: str
    sentence: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)
    host: str = ""
    pid: int = 0
    started: float = 0.0
    job: str = ""
    since: str = ""


def read_state(run_dir: Path) -> State | None:
    """The state of the run in a folder, None where there is none.

    A run that is marked as running, but whose process is gone, has failed. A process on another
    machine shows that it lives by touching the file.
    """
    try:
        state = State(**json.loads((run_dir / FILE).read_text()))
        silent = time.time() - (run_dir / FILE).stat().st_mtime
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        return State("failed", f"{run_dir / FILE} cannot be read ({error})")
    here = state.host == socket.gethostname()
    if state.state == "running" and not (_alive(state) if here else silent < SILENCE):
        gone = "its process is gone without a word: it was killed, or memory ran out"
        return State(**{**asdict(state), "state": "failed", "sentence": gone})
    return state


@contextmanager
def recorded(run_dir: Path, about: Mapping[str, Any]) -> Iterator[None]:
    """Inside, the run in `run_dir` is running; after, it is done, stopped or failed.

    Raises:
        UserError: another process is at work in the folder.
    """
    before = read_state(run_dir)
    ours = before and before.pid == os.getpid() and before.host == socket.gethostname()
    if before and before.state == "running" and not ours and before.job != _job():
        raise UserError(
            f"The run folder {run_dir} is in use by process {before.pid} on {before.host} since "
            f"{before.since}: wait for it, stop it, or choose another run_dir. If that machine is "
            f"gone, delete {run_dir / FILE}."
        )
    _write(run_dir, "running", "", about)
    try:
        with _beating(run_dir):
            yield
    except BaseException as error:
        _write(run_dir, *_end(error), about)
        raise
    complete = (run_dir / "done").is_file()
    _write(run_dir, "done" if complete else "stopped", "", about)


def _end(error: BaseException) -> tuple[str, str]:
    """The state that an exception leaves, and why."""
    if isinstance(error, KeyboardInterrupt):
        return "stopped", "stopped by Ctrl-C"
    if isinstance(error, SystemExit):
        number = error.code - 128 if isinstance(error.code, int) else 0
        if number in set(signal.Signals):
            return "stopped", f"stopped by {signal.Signals(number).name}"
        return "failed", f"exit code {error.code}"
    message = " ".join(str(error).split())
    return "failed", message if isinstance(
        error, UserError
    ) else f"{type(error).__name__}: {message}"


@contextmanager
def _beating(run_dir: Path) -> Iterator[None]:
    """Inside, a thread touches the file now and then."""
    end = Event()

    def beat() -> None:
        while not end.wait(BEAT):
            with suppress(OSError):
                os.utime(run_dir / FILE)

    thread = Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def _job() -> str | None:
    return os.environ.get("SLURM_JOB_ID")


def _alive(state: State) -> bool:
    try:
        # Process numbers come around again.
        return abs(psutil.Process(state.pid).create_time() - state.started) < 1
    except psutil.Error:
        return False


def _write(run_dir: Path, state: str, sentence: str, about: Mapping[str, Any]) -> None:
    now = datetime.now().isoformat(sep=" ", timespec="seconds")
    started = psutil.Process().create_time()
    told = State(
        state, sentence, about, socket.gethostname(), os.getpid(), started, _job() or "", now
    )
    partial = run_dir / f"{FILE}.partial"
    try:
        partial.write_text(json.dumps(asdict(told), indent=1) + "\n")
        partial.replace(run_dir / FILE)
    except OSError as error:  # a full disk: what is told of it is not worth a run
        print(f"{run_dir / FILE} was not written: {error}", file=sys.stderr)
