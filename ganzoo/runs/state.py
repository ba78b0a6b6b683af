"""`state.json`: the state of a run, as its process wrote it and as others read it.

One process owns a run folder at a time. The file names it, so that a second process is refused, and
a run whose process was killed is not taken for a running one.
"""

import json
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

FILE = "state.json"
SILENCE = 300.0  # seconds without a sign of life after which a remote process counts as dead
STATES = ("running", "done", "stopped", "failed")


@dataclass(frozen=True)
class State:
    """What `state.json` says."""

    state: str  # one of `STATES`
    sentence: str = ""  # why the run stopped or failed
    # The names of model, data, experiment and the run, and the keys given for it.
    about: Mapping[str, Any] = field(default_factory=dict)
    host: str = ""
    pid: int = 0
    started: float = 0.0  # when the process started, in seconds since 1970
    job: str = ""  # of the cluster's scheduler; a requeued job may take over from itself
    since: str = ""  # when the state began, ISO 8601


def read_state(run_dir: Path) -> State | None:
    """The state of the run in a folder; None if there is none.

    A run that is marked as running, but whose process has disappeared, has failed. The process
    touches the file as a sign of life; on its own machine it can be looked up as well.
    """
    try:
        state = _parsed((run_dir / FILE).read_text())
        silent = time.time() - (run_dir / FILE).stat().st_mtime
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        return State("failed", f"{FILE} cannot be read ({error})")
    alive = silent < SILENCE
    if state.host == socket.gethostname():
        alive = _exists(state, alive)
    if state.state == "running" and not alive:
        gone = "its process disappeared without an error: killed, or out of memory"
        return State(**{**asdict(state), "state": "failed", "sentence": gone})
    return state


def _parsed(text: str) -> State:
    """The state in the text of a file. Raises ValueError or TypeError if it is not one."""
    state = State(**json.loads(text))
    kinds: dict[str, Any] = {"about": dict, "pid": int, "started": int | float}
    for name, value in vars(state).items():
        if not isinstance(value, kinds.get(name, str)):
            raise TypeError(f"{name} is {value!r}")
    if state.state not in STATES or state.pid < 0:
        raise ValueError(f"{state.state!r} of process {state.pid} is not a state")
    return state


def job() -> str:
    """The job of SLURM that this process belongs to; empty outside of SLURM."""
    return os.environ.get("SLURM_JOB_ID", "")


def _exists(state: State, touched: bool) -> bool:
    """Whether a process of this machine still exists; `touched`: its file was recently."""
    try:
        process = psutil.Process(state.pid)
        # Process numbers are reused, so the start must match as well, unless the file was touched:
        # start times come from the wall clock, which may have been set since.
        same = touched or abs(process.create_time() - state.started) < 1
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return touched
