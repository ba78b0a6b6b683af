"""Processes that start at once: forks of a process that has imported everything.

`python -m ganzoo.NAME` imports torch and Lightning for seconds, and the tests start it a hundred
times. `Popen` replaces that of `subprocess` for `python -m MODULE`, `python -c CODE` and `python
SCRIPT`: a real process with its own memory, signals, and exit code, but without the imports. So it
can tell nothing about imports. Executed as a script, this file is the server that forks.
"""

import array
import atexit
import functools
import gc
import importlib
import inspect
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from typing import Any

IMPORTS = (
    *(f"ganzoo.{name}" for name in ("train", "evaluate", "sample", "translate", "export")),
    *(f"ganzoo.models.{name}" for name in ("dcgan", "pggan", "cyclegan", "biggan")),
    *("ganzoo.data.sources.synthetic", "ganzoo.metrics.suite", "ganzoo.callbacks.page"),
    *("torch.distributed.run", "torchmetrics.image", "matplotlib.pyplot", "torchvision.io", "timm"),
)


@functools.cache
def server() -> socket.socket:
    """The connection to the server of this test process, which ends with it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environment = {**os.environ, "MPLBACKEND": "agg"}
    process = subprocess.Popen(
        [sys.executable, __file__, str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        env=environment,
        stdin=subprocess.DEVNULL,
    )
    theirs.close()
    atexit.register(process.wait)
    atexit.register(ours.close)
    return ours


class Popen(subprocess.Popen):
    """`subprocess.Popen` of `[sys.executable, "-m", MODULE, ...]`, with "-c", or of a script."""

    def _execute_child(self, *args: Any) -> None:
        given = inspect.signature(subprocess.Popen._execute_child).bind(self, *args).arguments
        status, theirs = os.pipe()
        pipes = {name: given[name] for name in ("p2cread", "c2pwrite", "errwrite")}
        files = [own if own != -1 else k for k, own in enumerate(pipes.values())]
        request = {
            "command": [os.fspath(part) for part in given["args"]][1:],
            "folder": os.fspath(given["cwd"] or os.getcwd()),
            "environment": dict(os.environ if given["env"] is None else given["env"]),
            "session": given["start_new_session"],
        }
        fds = array.array("i", [*files, theirs]).tobytes()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)]
        server().sendmsg([json.dumps(request).encode()], rights)
        os.close(theirs)
        names = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        self._close_pipe_fds(*(given[name] for name in names))
        self._child_created = True
        self._status = os.fdopen(status, "r")
        self.pid = int(self._status.readline())

    def _ended(self, timeout: float | None) -> bool:
        if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
            self.returncode = os.waitstatus_to_exitcode(int(self._status.readline()))
            self._status.close()
        return self.returncode is not None

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        self._ended(0)
        return self.returncode

    def _wait(self, timeout: float | None) -> int:
        if not self._ended(timeout):
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode


def run(command: list[str], timeout: float, **options: Any) -> subprocess.CompletedProcess[str]:
    """`subprocess.run` with the output captured as text."""
    pipe = subprocess.PIPE
    with Popen(command, stdout=pipe, stderr=pipe, text=True, **options) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def world(
    command: list[str], size: int, timeout: float, **options: Any
) -> list[subprocess.CompletedProcess[str]]:
    """The same command in `size` processes that find each other as those of torchrun do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = options.pop("env", os.environ)
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "GROUP_RANK": "0",
        "TORCHELASTIC_RUN_ID": "none",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
    }
    new = functools.partial(tempfile.TemporaryFile, "w+")
    files = [(new(), new()) for _ in range(size)]
    started = []
    for rank, (out, err) in enumerate(files):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        env = {**environment, **shared, **own}
        started.append(Popen(command, env=env, stdout=out, stderr=err, **options))
    end = time.monotonic() + timeout
    try:  # until all have ended, or one has failed: the others would wait for it
        while None in (codes := [process.poll() for process in started]) and not any(codes):
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(command, timeout)
            time.sleep(0.01)
        time.sleep(0.1 if any(codes) else 0)  # those that fail with it
    finally:
        for process in started:
            process.kill()
            process.wait()
    done = []
    for process, streams in zip(started, files, strict=True):
        texts = []
        for stream in streams:
            stream.seek(0)
            texts.append(stream.read())
            stream.close()
        done.append(subprocess.CompletedProcess(command, process.returncode, *texts))
    return done


# -- the server ------------------------------------------------------------------------------------


def serve(connection: socket.socket) -> dict[str, Any]:
    """Fork for each request; return in the forks, with the request."""
    while True:
        message, rights, *_ = connection.recvmsg(1 << 20, socket.CMSG_SPACE(4 * 4))
        if not message:
            os._exit(0)
        files = list(array.array("i", rights[0][2]))
        if not os.fork():
            break
        for descriptor in files:
            os.close(descriptor)
    *standard, status = files
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    job = os.fork()
    if job:  # a process that does nothing but report the other's end
        for descriptor in (0, 1, 2, *standard, connection.fileno()):
            os.close(descriptor)
        os.write(status, f"{job}\n".encode())
        os.write(status, f"{os.waitpid(job, 0)[1]}\n".encode())
        os._exit(0)
    for number, descriptor in enumerate(standard):
        os.dup2(descriptor, number)
    for descriptor in files:
        os.close(descriptor)
    connection.close()
    return json.loads(message)


def become(request: dict[str, Any]) -> None:
    """Continue as the process that was asked for."""
    if request["session"]:
        os.setsid()
    os.environ.clear()
    os.environ.update(request["environment"])
    os.environ.pop("WANDB_SERVICE", None)  # that of the test's process
    if wandb := sys.modules.get("wandb.sdk.data_types._private"):  # imported by timm
        wandb.MEDIA_TMP.name = tempfile.mkdtemp("wandb-media")  # deleted when this process ends
    os.chdir(request["folder"])
    rank_zero.rank_zero_only.rank = rank_zero._get_rank() or 0  # which Lightning does at import
    # The streams of the server may be of another kind: a file instead of a pipe.
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    first, *rest = request["command"]
    option = first in ("-m", "-c")
    sys.path[0] = os.getcwd() if option else os.path.dirname(os.path.abspath(first))
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[1:1] = [path for path in paths if path and path not in sys.path]
    sys.argv = {"-m": rest, "-c": ["-c", *rest[1:]]}.get(first, [first, *rest])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*found in sys.modules")
        warnings.filterwarnings("default", category=UserWarning)
        if first == "-c":
            exec(rest[0], {"__name__": "__main__"})
        elif first == "-m":
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    from lightning.fabric.utilities import rank_zero
    from makers import quick  # noqa: F401

    for name in IMPORTS:
        importlib.import_module(name)
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the processes that report
    become(serve(socket.socket(fileno=int(sys.argv[1]))))
