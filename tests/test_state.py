"""What a run folder tells of its run, while its process lives and after."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from ganzoo.errors import UserError
from ganzoo.runs import record
from ganzoo.runs.record import recorded
from ganzoo.runs.state import FILE, SILENCE, read_state

ABOUT = {"name": "biggan_seed-0", "model": "biggan", "data": "emoji", "keys": ["seed=0"]}
RUN = """
import sys, time
from pathlib import Path
from ganzoo.runs.record import recorded
with recorded(Path(sys.argv[1]), {"name": "there"}):
    print("in", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def _no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a process that runs in a folder, `tmp_path` if nothing is said."""
    started = []

    def start(**env: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **env},
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "in\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def write(folder: Path, silent: float = 0.0, **changes: object) -> None:
    """A state of a process on another machine that was last heard of `silent` seconds ago."""
    told = {
        "state": "running",
        "sentence": "",
        "about": ABOUT,
        "host": "elsewhere",
        "pid": 1,
        "started": 0.0,
        "job": "",
        "since": "2026-01-01 00:00:00",
    }
    (folder / FILE).write_text(json.dumps({**told, **changes}))
    os.utime(folder / FILE, (time.time() - silent,) * 2)


def known(folder: Path) -> tuple[str, str]:
    state = read_state(folder)
    assert state is not None
    return state.state, state.sentence


# -- what is left ----------------------------------------------------------------------------------


def test_there_is_no_state_without_a_file(tmp_path) -> None:
    assert read_state(tmp_path) is None
    assert read_state(tmp_path / "nowhere") is None


def test_running_then_done(tmp_path) -> None:
    with recorded(tmp_path, ABOUT):
        state = read_state(tmp_path)
        assert state is not None
        assert state.state == "running"
        assert state.about == ABOUT
        assert (state.host, state.pid) == (socket.gethostname(), os.getpid())
        assert state.started == psutil.Process().create_time()
        (tmp_path / "done").touch()
    state = read_state(tmp_path)
    assert state is not None
    assert (state.state, state.sentence, state.about) == ("done", "", ABOUT)
    assert {path.name for path in tmp_path.iterdir()} == {"done", FILE}


def test_an_end_without_done_is_a_stop(tmp_path) -> None:
    with recorded(tmp_path, ABOUT):
        pass
    assert known(tmp_path) == ("stopped", "")


@pytest.mark.parametrize(
    ("error", "left"),
    [
        (UserError("No images\n in x: give others."), "failed: No images in x: give others."),
        (RuntimeError("out of memory"), "failed: RuntimeError: out of memory"),
        (RuntimeError(), "failed: RuntimeError"),
        (SystemExit(128 + signal.SIGTERM), "stopped: stopped by SIGTERM"),
        (SystemExit(3), "failed: exit code 3"),
        (SystemExit("no"), "failed: exit code no"),
        (KeyboardInterrupt(), "stopped: stopped by Ctrl-C"),
    ],
)
def test_an_error_goes_on_and_leaves_its_sentence(tmp_path, error, left) -> None:
    with pytest.raises(type(error)) as raised, recorded(tmp_path, ABOUT):
        raise error
    assert raised.value is error
    assert ": ".join(known(tmp_path)) == left


def test_signs_of_life_while_it_runs_and_none_after(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(record, "BEAT", 0.02)
    file = tmp_path / FILE
    with recorded(tmp_path, ABOUT):
        os.utime(file, (0, 0))
        end = time.monotonic() + 10
        while file.stat().st_mtime == 0 and time.monotonic() < end:
            time.sleep(0.01)
        assert abs(file.stat().st_mtime - time.time()) < 10
    os.utime(file, (0, 0))
    time.sleep(0.1)
    assert file.stat().st_mtime == 0


def test_what_cannot_be_told_is_not_worth_a_run(tmp_path, capsys, monkeypatch) -> None:
    def full(path: Path, content: str) -> None:
        raise UserError(f"{path} could not be written (the disk is full).")

    monkeypatch.setattr(record, "write_whole", full)
    with recorded(tmp_path, ABOUT):
        pass
    assert f"{FILE} could not be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"state": "run',
        "[]",
        '"running"',
        "{}",
        '{"state": "flying"}',
        '{"state": "running", "color": 1}',
        '{"state": "running", "pid": "7"}',
        '{"state": "running", "pid": -7}',
        '{"state": "running", "about": []}',
        '{"state": "running", "started": null}',
        "\udcff",
    ],
)
def test_an_unreadable_file_is_told_of_and_stops_no_run(tmp_path, text) -> None:
    (tmp_path / FILE).write_bytes(text.encode(errors="surrogateescape"))
    state, sentence = known(tmp_path)
    assert state == "failed"
    assert f"{FILE} cannot be read (" in sentence
    with recorded(tmp_path, ABOUT):
        assert known(tmp_path) == ("running", "")


def test_what_is_no_file_is_unreadable(tmp_path) -> None:
    (tmp_path / FILE).mkdir()
    assert known(tmp_path)[0] == "failed"
    (tmp_path / "file").touch()
    assert read_state(tmp_path / "file") is not None


# -- whether it lives ------------------------------------------------------------------------------


def test_a_process_that_lives_keeps_others_out(tmp_path, running) -> None:
    process = running()
    os.utime(tmp_path / FILE, (0, 0))  # a process that is there may be silent, as in a debugger
    assert known(tmp_path) == ("running", "")
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(UserError, match=f"in use by process {process.pid} on ") as refused:
        recorded(tmp_path, ABOUT).__enter__()
    assert "choose another run_dir" in str(refused.value)
    assert (tmp_path / FILE).read_bytes() == before


@pytest.mark.parametrize("reaped", [True, False])
def test_a_killed_process_has_failed_and_may_be_followed(tmp_path, running, reaped) -> None:
    process = running()
    assert known(tmp_path)[0] == "running"
    process.send_signal(signal.SIGKILL)
    if reaped:
        process.wait()
    else:  # its parent has not looked yet: a zombie
        end = time.monotonic() + 10
        while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < end
            time.sleep(0.01)
    state, sentence = known(tmp_path)
    assert state == "failed"
    assert "killed" in sentence
    with recorded(tmp_path, ABOUT):
        state = read_state(tmp_path)
        assert (state.state, state.pid) == ("running", os.getpid())


def test_a_process_that_only_has_the_number_is_not_it(tmp_path) -> None:
    here = {"host": socket.gethostname(), "pid": os.getppid()}
    started = psutil.Process(os.getppid()).create_time()
    write(tmp_path, 2 * SILENCE, **here, started=started)
    assert known(tmp_path)[0] == "running"
    write(tmp_path, 2 * SILENCE, **here, started=started - 3600)
    assert known(tmp_path)[0] == "failed"


def test_a_clock_that_was_set_ends_no_run(tmp_path) -> None:
    here = {"host": socket.gethostname(), "pid": os.getppid()}
    write(tmp_path, 0, **here, started=psutil.Process(os.getppid()).create_time() - 3600)
    assert known(tmp_path)[0] == "running"
    with pytest.raises(UserError, match="in use"):
        recorded(tmp_path, ABOUT).__enter__()


def test_another_machine_is_heard_of_or_given_up(tmp_path) -> None:
    write(tmp_path, SILENCE - 60)
    assert known(tmp_path) == ("running", "")
    with pytest.raises(UserError, match="process 1 on elsewhere, since 2026-01-01 00:00:00"):
        recorded(tmp_path, ABOUT).__enter__()
    write(tmp_path, SILENCE + 1)
    assert known(tmp_path)[0] == "failed"
    with recorded(tmp_path, ABOUT):
        assert known(tmp_path) == ("running", "")


@pytest.mark.parametrize("state", ["done", "stopped", "failed"])
def test_what_has_ended_stays_so_whatever_its_age(tmp_path, state) -> None:
    for silent in (0, 10 * SILENCE):
        write(tmp_path, silent, state=state, sentence="why")
        assert known(tmp_path) == (state, "why")
    with recorded(tmp_path, ABOUT):
        pass


# -- jobs ------------------------------------------------------------------------------------------


def test_a_requeued_job_takes_over_from_itself_alone(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    write(tmp_path, job="13")
    with pytest.raises(UserError, match="in use"):
        recorded(tmp_path, ABOUT).__enter__()
    write(tmp_path, job="")
    with pytest.raises(UserError, match="in use"):
        recorded(tmp_path, ABOUT).__enter__()
    write(tmp_path, job="12")
    with recorded(tmp_path, ABOUT):
        state = read_state(tmp_path)
        assert (state.pid, state.job) == (os.getpid(), "12")


def test_no_job_is_not_the_same_job(tmp_path, monkeypatch) -> None:
    for value in (None, ""):
        if value is not None:
            monkeypatch.setenv("SLURM_JOB_ID", value)
        write(tmp_path)
        with pytest.raises(UserError, match="in use"):
            recorded(tmp_path, ABOUT).__enter__()


def test_two_processes_of_one_job_on_one_machine(tmp_path, running, monkeypatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    process = running(SLURM_JOB_ID="12")
    with pytest.raises(UserError, match=f"process {process.pid}"):
        recorded(tmp_path, ABOUT).__enter__()


def test_the_same_process_may_go_on(tmp_path) -> None:
    with recorded(tmp_path, ABOUT), recorded(tmp_path, {"name": "again"}):
        assert known(tmp_path)[0] == "running"


def test_one_of_two_processes_that_start_together(tmp_path, running) -> None:
    """Neither sees the other in `state.json`, as in two containers: the lock decides."""
    process = running()
    write(tmp_path, host="elsewhere", pid=process.pid, silent=2 * SILENCE)
    assert known(tmp_path)[0] == "failed"
    with pytest.raises(UserError, match=f"in use by process {process.pid} on elsewhere"):
        recorded(tmp_path, ABOUT).__enter__()
    process.kill()
    process.wait()
    with recorded(tmp_path, ABOUT):
        child = os.fork()
        if child == 0:  # such as a worker, which outlives a killed run for a while
            os._exit(len(record._held))
        assert os.waitpid(child, 0)[1] == 0, "the child keeps the lock"
    with recorded(tmp_path, ABOUT):
        assert known(tmp_path)[0] == "running"
