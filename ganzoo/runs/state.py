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

from ganzoo.disk import write_whole
from ganzoo.errors import AnotherRun, UserError

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
        about: names of what was chosen (`model`, `data`, `experiment`), the name of the run and the
            keys that were given for it.
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

    A run that is marked as running, but whose process is gone, has failed. A process shows that it
    lives by touching the file; of those on this machine it is also known whether they are there.
    """
    try:
        state = _parsed((run_dir / FILE).read_text())
        silent = time.time() - (run_dir / FILE).stat().st_mtime
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        return State("failed", f"{FILE} cannot be read ({error})")
    lives = silent < SILENCE
    if state.host == socket.gethostname():
        lives = _there(state, lives)
    if state.state == "running" and not lives:
        gone = "its process is gone without a word: it was killed, or memory ran out"
        return State(**{**asdict(state), "state": "failed", "sentence": gone})
    return state


@contextmanager
def recorded(run_dir: Path, about: Mapping[str, Any]) -> Iterator[None]:
    """Inside, the run in `run_dir` is running; after, it is done, stopped or failed.

    After `AnotherRun` the file is what it was.

    Args:
        about: as in `State`.

    Raises:
        UserError: another process is at work in the folder.
    """
    before = read_state(run_dir)
    here = before is not None and before.host == socket.gethostname()
    # A job that was requeued has left nothing behind, though the file may be fresh. On one machine
    # it is seen whether it has.
    ours = before and (before.pid == os.getpid() if here else before.job and before.job == _job())
    if before and before.state == "running" and not ours:
        raise UserError(
            f"The run folder {run_dir} is in use by process {before.pid} on {before.host} since "
            f"{before.since}: wait for it, stop it, or choose another run_dir. If that machine is "
            f"gone, delete {run_dir / FILE}."
        )
    old = (run_dir / FILE).read_bytes() if before else b""
    _write(run_dir, "running", "", about)
    try:
        with _beating(run_dir):
            yield
    except AnotherRun:  # which keeps its state
        if before:
            (run_dir / FILE).write_bytes(old)
        else:
            (run_dir / FILE).unlink()
        raise
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
    if isinstance(error, UserError):
        return "failed", message
    return "failed", f"{type(error).__name__}: {message}".removesuffix(": ")


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


def _parsed(text: str) -> State:
    """The state that a file tells of. Raises ValueError or TypeError if it tells of none."""
    state = State(**json.loads(text))
    kinds: dict[str, Any] = {"about": dict, "pid": int, "started": int | float}
    for name, value in vars(state).items():
        if not isinstance(value, kinds.get(name, str)):
            raise TypeError(f"{name} is {value!r}")
    if state.state not in STATES or state.pid < 0:
        raise ValueError(f"there is no state {state.state!r} of process {state.pid}")
    return state


def _job() -> str:
    return os.environ.get("SLURM_JOB_ID", "")


def _there(state: State, touched: bool) -> bool:
    """Whether a process of this machine still is there; `touched`: its file was of late."""
    try:
        process = psutil.Process(state.pid)
        # Process numbers come around again. When a process started is told by the clock of the
        # wall, which may have been set since.
        same = touched or abs(process.create_time() - state.started) < 1
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return touched


def _write(run_dir: Path, state: str, sentence: str, about: Mapping[str, Any]) -> None:
    now = datetime.now().isoformat(sep=" ", timespec="seconds")
    started = psutil.Process().create_time()
    told = State(state, sentence, about, socket.gethostname(), os.getpid(), started, _job(), now)
    try:
        write_whole(run_dir / FILE, json.dumps(asdict(told), indent=1) + "\n")
    except UserError as error:  # not worth ending a run for
        print(error, file=sys.stderr)
