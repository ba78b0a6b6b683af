"""What a run writes down about itself: state, log, config, and that it is complete."""

import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import datetime
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile
from threading import Event, Thread
from typing import Any

import psutil
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from ganzoo.config import composed, search_path
from ganzoo.disk import reason, write_whole
from ganzoo.errors import AnotherRun, UserError
from ganzoo.runs.differences import NONE, as_text, flatten, ignored
from ganzoo.runs.names import changeable, given, in_sweep
from ganzoo.runs.state import FILE, State, job, read_state

try:
    import fcntl
except ImportError:  # on Windows, `state.json` alone keeps two processes out of one folder
    fcntl = None  # type: ignore[assignment]

# What a run may write.
FILES = ("config.yaml", "train.log", FILE, "last.ckpt", "best.ckpt", "good.ckpt", "done",
         "metrics.csv", "metrics.json", "spectra.csv", "warnings.json")  # fmt: skip
FOLDERS = ("samples", "logits", "stages", "snapshots")
GRACE = 2.0  # seconds for a killed process to disappear completely
BEAT = 30.0  # seconds between two signs of life


@contextmanager
def recording(run_dir: Path, cfg: DictConfig) -> Iterator[None]:
    """Write `train.log` and `state.json` of the run inside; only the first process does.

    Raises UserError: the folder cannot be written to, or another process is working in it.
    """
    if rank_zero_only.rank != 0:  # type: ignore[attr-defined]
        logging.getLogger().setLevel(logging.WARNING)
        yield
    elif cfg.dry:
        with log_to(run_dir):
            yield
        forget(run_dir)
    else:
        try:
            with log_to(run_dir), recorded(run_dir, about(run_dir, cfg)):
                yield
        except UserError:  # such as a typo in a path
            forget(run_dir)
            raise


def forget(run_dir: Path) -> None:
    """Delete the folder of a run that has trained nothing, unless its name was given."""
    if not HydraConfig.initialized() or in_sweep():
        return
    if any(key.startswith("run_dir=") for key in given()):
        return
    with suppress(OSError):
        written = list(run_dir.iterdir())
        if any(path.name not in ("train.log", "config.yaml", FILE) for path in written):
            return
        for path in written:
            path.unlink()
        for folder in (run_dir, *run_dir.parents):
            if folder == Path.cwd():
                break
            folder.rmdir()  # ends at the first that is not empty


class LogFile(logging.FileHandler):
    """A log file that ends no run and prints no traceback if the disk is full."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Leave it to whatever needs the disk to say so."""


@contextmanager
def log_to(run_dir: Path) -> Iterator[None]:
    """Write log messages to `train.log`, and the error that ends the run."""
    make_folder(run_dir)
    check_kinds(run_dir)
    root = logging.getLogger()
    handler = LogFile(run_dir / "train.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    root.addHandler(handler)
    ours, before = logging.getLogger("ganzoo"), (root.level, logging.getLogger("ganzoo").level)
    root.setLevel(min(root.level, logging.INFO))
    ours.setLevel(logging.DEBUG)  # details, which the terminal does not show
    try:
        yield
    except Exception as error:  # the command shows it on the terminal
        trace = None if isinstance(error, UserError) else sys.exc_info()
        handler.emit(logging.makeLogRecord({"msg": str(error), "exc_info": trace}))
        raise
    finally:
        root.removeHandler(handler)
        root.setLevel(before[0])
        ours.setLevel(before[1])
        with suppress(OSError):
            handler.close()


def about(run_dir: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """For lists of runs: name, model, data, experiment, and the keys that were given."""
    source = config["data"].get("source", config["data"])
    facts: dict[str, Any] = {
        "name": run_dir.name,
        "model": _class(config["model"]),
        "data": _class(source),
        "experiment": None,
        "keys": [],
    }
    if HydraConfig.initialized():
        choices = HydraConfig.get().runtime.choices
        facts |= {key: choices.get(key) for key in ("model", "data", "experiment")}
        facts["keys"] = given()
        facts["differs"] = differing(config, choices)
    return facts


def differing(config: Mapping[str, Any], choices: Mapping[str, Any]) -> dict[str, list[str]] | None:
    """The keys that are not as by default for this model and data: the values here and there.

    Values that follow another key are left out, since that key is there. None if the model or the
    data is the user's own, which has no defaults here.
    """
    names = [f"{key}={choices[key]}" for key in ("model", "data") if choices.get(key)]
    try:
        default = _defaults(tuple(names), tuple(search_path()))
    except ConfigCompositionException:
        return None
    here = flatten(OmegaConf.to_container(config))  # type: ignore[arg-type]
    return {
        key: [as_text(nodes.get(key)) if key in nodes else NONE for nodes in (here, default)]
        for key in sorted({*here, *default})
        if here.get(key) != default.get(key) and not ignored(key)
    }


@cache  # the runs of a sweep share it
def _defaults(names: tuple[str, ...], searched: tuple[str, ...]) -> dict[str, Any]:
    return flatten(OmegaConf.to_container(composed("train", names)))  # type: ignore[arg-type]


def _class(node: Mapping[str, Any]) -> str:
    return str(node.get("_target_", "")).rpartition(".")[2]


def check_same_run(old: dict[str, Any] | None, new: dict[str, Any]) -> None:
    """Raise `UserError` if a resumed run's config differs in a key that makes it another run."""
    before, now = flatten(old or {}), flatten(new)
    changed = [
        f"{key} ({before.get(key)} there, {now.get(key)} now)"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key) and not changeable(key)
    ]
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise AnotherRun(
            f"The run folder contains a run with another config: {', '.join(changed[:3])}{more}. "
            f"Give the same keys to resume it, or choose another run_dir (with init_from to start "
            f"from its weights)."
        )


@rank_zero_only
def write_config(run_dir: Path, config: dict[str, Any]) -> None:
    """Write `config.yaml`, with every value resolved; the run is not complete any more."""
    write_whole(run_dir / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(config)))
    (run_dir / "done").unlink(missing_ok=True)


def is_done(run_dir: Path) -> bool:
    """Whether a run is complete: trained, with the metrics and pictures of its end."""
    return (run_dir / "done").is_file()


@rank_zero_only
def write_done(run_dir: Path, images: int) -> None:
    """Write `done`, which says that the run is complete."""
    (run_dir / "done").write_text(f"{images} images\n")


def check_kinds(run_dir: Path) -> None:
    """Raise `UserError` if a name that a run uses is taken by something of another kind."""
    for names, right, kind in ((FILES, Path.is_file, "file"), (FOLDERS, Path.is_dir, "folder")):
        for path in (run_dir / name for name in names):
            if path.exists() and not right(path):
                raise UserError(
                    f"{path} is not a {kind}: move it elsewhere, or choose another run_dir."
                )


def make_folder(folder: Path) -> None:
    """Make a folder and check that it can be written to. Raises `UserError` if it cannot."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(
            f"The folder {folder} cannot be written to ({reason(error)}): choose another run_dir, "
            f"or sweep_dir for a sweep."
        ) from error


# -- state.json ------------------------------------------------------------------------------------


@contextmanager
def recorded(run_dir: Path, about: Mapping[str, Any]) -> Iterator[None]:
    """Keep `state.json` up to date: running inside, then done, stopped or failed.

    After `AnotherRun` the file is unchanged.

    Raises UserError: another process is working in the folder.
    """
    with locked(run_dir):
        yield from _recorded(run_dir, about)


def _recorded(run_dir: Path, about: Mapping[str, Any]) -> Iterator[None]:
    before = read_state(run_dir)
    here = before is not None and before.host == socket.gethostname()
    # A requeued job no longer runs elsewhere, even if the file is fresh.
    ours = before and (before.pid == os.getpid() if here else before.job and before.job == job())
    if before and before.state == "running" and not ours:
        raise UserError(
            f"The run folder {run_dir} is in use by process {before.pid} on {before.host}, since "
            f"{before.since}: wait for it, stop it, or choose another run_dir. If that machine no "
            f"longer exists, delete {run_dir / FILE}."
        )
    old = (run_dir / FILE).read_bytes() if before else b""
    _write_state(run_dir, "running", "", about)
    try:
        with _beating(run_dir):
            yield
    except AnotherRun:  # leave its state alone
        if before:
            (run_dir / FILE).write_bytes(old)
        else:
            (run_dir / FILE).unlink()
        raise
    except BaseException as error:
        _write_state(run_dir, *_end(error), about)
        raise
    _write_state(run_dir, "done" if is_done(run_dir) else "stopped", "", about)


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Hold a lock on the folder itself, which ends with the process, however that ends.

    It decides between two processes that start in the same moment, or that do not see each other,
    as in two containers. File systems that know no locks leave it to `state.json`.

    Raises UserError: another process holds it.
    """
    status = run_dir.stat()
    key = status.st_dev, status.st_ino
    if fcntl is None or key in _held:  # by an earlier attempt of this process
        yield
        return
    folder = os.open(run_dir, os.O_RDONLY)
    try:
        try:
            _wait_for_lock(folder, run_dir)
        except BlockingIOError as error:
            who = _raw_owner(run_dir)
            raise UserError(
                f"The run folder {run_dir} is in use by process {who}: wait for it, stop it, or "
                f"choose another run_dir."
            ) from error
        except OSError:
            pass
        _held[key] = folder
        yield
    finally:
        _held.pop(key, None)
        with suppress(OSError):
            fcntl.flock(folder, fcntl.LOCK_UN)  # also for a child that was forked just now
        os.close(folder)


def _wait_for_lock(folder: int, run_dir: Path) -> None:
    """Lock a folder. A killed process may need a moment to let go of its lock."""
    end = time.monotonic() + GRACE
    while True:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            state = read_state(run_dir)
            if state is None or state.state != "failed" or time.monotonic() > end:
                raise
            time.sleep(0.02)


_held: dict[tuple[int, int], int] = {}  # descriptors of locks, by the device and inode of a folder


def _let_go() -> None:
    """Forked processes, such as workers that read images, must not keep the lock."""
    for folder in _held.values():
        os.close(folder)
    _held.clear()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_let_go)


def _raw_owner(run_dir: Path) -> str:
    """The process that `state.json` names, even if it cannot be seen from here."""
    try:
        written = json.loads((run_dir / FILE).read_text())
        return f"{written['pid']} on {written['host']}, since {written['since']}"
    except (OSError, ValueError, TypeError, KeyError):
        return "that has just started"


def _end(error: BaseException) -> tuple[str, str]:
    """The state of a run that ended with an exception, and why."""
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
    """Touch the file regularly, as a sign of life."""
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


def _write_state(run_dir: Path, state: str, sentence: str, about: Mapping[str, Any]) -> None:
    now = datetime.now().isoformat(sep=" ", timespec="seconds")
    started = psutil.Process().create_time()
    content = State(state, sentence, about, socket.gethostname(), os.getpid(), started, job(), now)
    try:
        write_whole(run_dir / FILE, json.dumps(asdict(content), indent=1) + "\n")
    except UserError as error:  # not worth ending a run for
        print(error, file=sys.stderr)
