"""The list of runs as a command: watching in a terminal and without one, pipes, arguments."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from makers.run_folders import CONFIG, make
from omegaconf import OmegaConf

from ganzoo.runs.__main__ import main


def in_terminal(
    command: list[str], act: Callable[[subprocess.Popen[bytes], Callable[[str], str]], None]
) -> tuple[int, str]:
    """Run a command in a terminal of 24 lines and 80 columns: its exit code and what it wrote."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "LINES": "24", "COLUMNS": "80"}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    written = ""

    def until(text: str, seconds: float = 60) -> str:
        nonlocal written
        end, since = time.monotonic() + seconds, len(written)
        while text not in written[since:]:
            assert time.monotonic() < end, written
            if select.select([ours], [], [], 0.1)[0]:
                try:
                    written += os.read(ours, 65536).decode()
                except OSError:  # it has ended
                    assert text in written[since:], written
        return written[since:]

    try:
        act(process, until)
        code = process.wait(60)
        while select.select([ours], [], [], 0.1)[0]:
            try:
                written += os.read(ours, 65536).decode()
            except OSError:
                break
        return code, written
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_watching_in_a_terminal(tmp_path) -> None:
    make(tmp_path / "s" / "one", "stopped", "by hand")
    for i in range(40):
        make(tmp_path / "s" / f"run-{i}")

    def act(process: subprocess.Popen[bytes], until: Callable[[str], str]) -> None:
        until("41 runs: ")
        make(tmp_path / "s" / "two", "failed", "too bad")
        until("42 runs: ")
        process.send_signal(signal.SIGINT)

    command = [sys.executable, "-m", "ganzoo.runs", str(tmp_path), "--watch", "0.05"]
    code, written = in_terminal(command, act)
    assert code == 0
    assert "Traceback" not in written
    screens = written.split("\033[H")
    assert len(screens) > 2
    assert all(screen.count("\n") < 24 for screen in screens[1:-1])
    assert "\033[?1049h" in written
    end = written.rpartition("\033[?1049l")[2]  # the screen is back
    assert "42 runs: 40 done, 1 stopped, 1 failed" in end
    assert "run-39" in end
    assert "\033[?25h" in written  # the cursor, too


def test_watching_without_a_terminal(tmp_path) -> None:
    make(tmp_path / "one")
    command = [sys.executable, "-m", "ganzoo.runs", str(tmp_path), "--watch", "0.05"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        seen = 0
        while seen < 2:
            seen += "1 run: 1 done" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, err) == (0, "")
    assert "\033" not in out


def test_a_reader_that_goes_away(tmp_path) -> None:
    for i in range(1000):  # more than a pipe holds
        folder = tmp_path / f"{i}{'x' * 200}"
        folder.mkdir()
        (folder / "train.log").touch()
    command = [sys.executable, "-m", "ganzoo.runs", str(tmp_path)]
    env = {**os.environ, "COLUMNS": "300"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    process.wait(60)


@pytest.mark.parametrize(
    "arguments", [["--watch", "runs"], ["--watch", "0"], ["--sort", "luck"], ["--json", "--watch"]]
)
def test_arguments_that_make_no_sense(arguments, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_torch_is_not_needed(tmp_path) -> None:
    code = "import sys, ganzoo.runs.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert OmegaConf.create(CONFIG).total_kimg == 80  # what is read by lines is YAML
