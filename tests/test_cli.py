"""What the commands share: the script `ganzoo`, exit codes, arguments."""

import argparse
import errno
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ganzoo import __version__, cli
from ganzoo.config import CONF, PACKAGE
from ganzoo.errors import UserError

GROUND = {"__init__", "__main__", "errors", "draws", "disk", "cli"}
NAMES = sorted({path.stem for path in PACKAGE.glob("*.py")} - GROUND | {"runs"})
SCRIPT = [sys.executable, "-c", "from ganzoo.cli import main; main()"]


def test_every_command_is_listed() -> None:
    assert sorted(cli.COMMANDS) == NAMES


@pytest.mark.filterwarnings("ignore::RuntimeWarning:runpy")
@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_help(name: str, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["ganzoo", name, "--help"])
    monkeypatch.setattr(sys, "path", sys.path[:])
    try:
        cli.main()
    except SystemExit as stop:
        assert stop.code in (0, None)  # noqa: PT017
    assert name in capsys.readouterr().out


LIGHT = ["runs", "sample", "neighbors", "workspace", "doctor", "translate", "prepare", "playground"]


@pytest.mark.parametrize("name", LIGHT)
def test_help_does_not_wait_for_torch(name: str) -> None:
    code = f"import sys, ganzoo.{name}; sys.exit('torch' in sys.modules or 'wandb' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_questions_to_hydra_do_not_wait_for_torch(name: str) -> None:
    command = [sys.executable, "-X", "importtime", "-m", f"ganzoo.{name}", "--help"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0
    assert "--cfg job" in ended.stdout
    assert len(ended.stdout.splitlines()) < 50
    imported = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()}
    assert "hydra" in imported
    assert not imported & {"torch", "lightning", "matplotlib"}


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("ganzoo tra", {"train", "translate"}), ("ganzoo train loss=hi", {"loss=hinge"})],
)
@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_commands_and_keys(typed: str, offered: set[str], tmp_path: Path) -> None:
    ganzoo = tmp_path / "ganzoo"
    ganzoo.write_text(f'#!/bin/sh\nexec {sys.executable} -m ganzoo "$@"\n')
    ganzoo.chmod(0o755)
    words = typed.split()
    script = f"""eval "$(ganzoo completion)"
        COMP_WORDS=({" ".join(words)}) COMP_CWORD={len(words) - 1} COMP_LINE="{typed}"
        COMP_POINT=${{#COMP_LINE}}; _ganzoo; printf '%s\\n' "${{COMPREPLY[@]}}" """
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    ended = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, env=environment, check=False
    )
    assert {line.strip() for line in ended.stdout.splitlines()} == offered, ended.stderr


@pytest.mark.parametrize(
    ("arguments", "code"), [([], 0), (["--help"], 0), (["-h"], 0), (["smaple"], 2)]
)
def test_the_script_lists_the_commands(arguments, code, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["ganzoo", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == code
    written = capsys.readouterr()
    assert all(name in (written.err if code else written.out) for name in NAMES)


def test_the_script_tells_its_version(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["ganzoo", "--version"])
    cli.main()
    assert capsys.readouterr().out == f"ganzoo {__version__}\n"


def test_the_package_is_the_script() -> None:
    command = [sys.executable, "-m", "ganzoo", "runs", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "ganzoo.runs" in result.stdout


def test_the_script_finds_packages_in_the_current_folder(tmp_path: Path) -> None:
    """As `python -m` does: a sitecustomize there would not be imported otherwise."""
    (tmp_path / "mine.py").write_text("")
    code = (
        "import sys; sys.path[:] = [p for p in sys.path if p]; sys.argv[1:] = ['runs', '--help']\n"
        "from ganzoo.cli import main\n"
        "try: main()\n"
        "except SystemExit: import mine"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (UserError("No such thing: give another."), 1, "ganzoo.x: No such thing: give another."),
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
            1,
            "ganzoo.x: cannot read or write (the disk is full).",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "a\nb"),
            1,
            r"ganzoo.x: cannot read or write a\nb (Permission denied).",
        ),
        (UserError("Set data.root."), 1, "ganzoo.x: Set data.root."),
        (MemoryError(), 1, "ganzoo.x: not enough memory"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: 9"),
            1,
            "ganzoo.x: not enough memory",
        ),
        (KeyboardInterrupt(), 130, "ganzoo.x: interrupted."),
    ],
)
def test_errors_are_a_sentence_and_an_exit_code(error: BaseException, code: int, says: str) -> None:
    body = (
        "import sys\nfrom ganzoo import cli\nfrom ganzoo.errors import UserError\n"
        f"with cli.exits('x'): raise {_source(error)}"
    )
    done = subprocess.run([sys.executable, "-c", body], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert done.stderr.startswith(says)
    assert done.stderr.count("\n") == 1


def _source(error: BaseException) -> str:
    args = [*error.args, *([getattr(error, "filename", None)] if len(error.args) == 2 else [])]
    return f"{type(error).__name__}({', '.join(map(repr, args))})"


def test_a_closed_pipe_is_silent() -> None:
    body = "from ganzoo import cli\nwith cli.exits('x'):\n  for _ in range(100000): print('line')"
    with subprocess.Popen(
        [sys.executable, "-c", body], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (cli.numbers, "3", [3]),
        (cli.numbers, "0-3", [0, 1, 2, 3]),
        (cli.numbers, "1,5,8-10", [1, 5, 8, 9, 10]),
        (cli.size, "64", (64, 64)),
        (cli.size, "48x80", (48, 80)),
        (cli.at_least(1), "1", 1),
        (cli.key_value, "root=a=b", "root=a=b"),
    ],
)
def test_arguments(kind: Callable[[str], object], text: str, value: object) -> None:
    assert kind(text) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (cli.path, ""),
        (cli.text, " "),
        (cli.numbers, "a"),
        (cli.numbers, "5-3"),
        (cli.size, "64x"),
        (cli.size, "x64"),
        (cli.size, "0"),
        (cli.size, "16x99999999"),
        (cli.numbers, "0-99999999999"),
        (cli.numbers, "4294967296"),
        (cli.at_least(1), "99999999999"),
        (cli.at_least(1), "0"),
        (cli.at_least(0), "-1"),
        (cli.key_value, "root"),
    ],
)
def test_wrong_arguments(kind: Callable[[str], object], text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        kind(text)


def test_home_in_keys(monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    given = ["data=folder", "data.root=~/photos", "--help", "a=b~/c"]
    assert cli.for_hydra(given) == [given[0], "data.root=/home/me/photos", *given[2:]]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("logger=[wandb,tensorboard]", ["logger=wandb", "+logger@logger.tensorboard=tensorboard"]),
        ('logger=["csv", "wandb"]', ["logger=csv", "+logger@logger.wandb=wandb"]),
        ("logger=[csv]", ["logger=csv"]),
        ("logger=[]", ["logger=none"]),
        ("logger=[,csv]", ["logger=csv"]),
        ("data=0", ["data='0'"]),
        ("model.nz=0", ["model.nz=0"]),
        ("logger.tags=[a,b]", ["logger.tags=[a,b]"]),
    ],
)
def test_words_for_hydra(given: str, expected: list[str]) -> None:
    assert cli.for_hydra([given]) == expected


def test_several_runs_are_asked_for_anywhere() -> None:
    assert cli.for_hydra(["seed=0,1", "-m", "image_size=8"]) == ["-m", "seed=0,1", "image_size=8"]
    with pytest.raises(UserError, match=r"hydra/sweeper=search is for several runs: add -m"):
        cli.for_hydra(["hydra/sweeper=search", "batch_size=choice(8,16)"])


@pytest.mark.parametrize("given", ["run_dir=", "run_dir=null", "run_dir=''", "sweep_dir=[a]"])
def test_a_run_folder_has_a_name(given: str) -> None:
    with pytest.raises(UserError, match=r"is not the path of a folder: give \w+_dir=FOLDER"):
        cli.for_hydra([given])


@pytest.mark.parametrize(
    ("given", "today"),
    [
        ("data.source.root=PHOTOS", "data.root"),
        ("data.classes=[cat]", "data.only"),
        ("metrics.metrics.is.splits=5", "metrics.scores.is.splits"),
        ("metrics/extractor@metrics.extractor=effnet", "metrics/network"),
        ("++callbacks.evaluate.patience=3", "callbacks.metrics.patience"),
        ("~callbacks.evaluate", "callbacks.metrics"),
        ("sweep=[0.5,1]", "truncations"),
    ],
)
def test_an_old_name_ends_with_todays_and_the_code_of_wrong_usage(given, today, capsys) -> None:
    with pytest.raises(SystemExit) as stop, cli.exits("train"):
        cli.for_hydra(["seed=1", given])
    assert stop.value.code == 2
    assert re.fullmatch(
        rf"ganzoo.train: \S+ is now {re.escape(today)}\.\n", capsys.readouterr().err
    )


def test_names_that_only_look_like_old_ones_are_left_alone() -> None:
    given = ["sweep_dir=x", "data.source.classes=3", "callbacks.evaluated=1", "data.a.root=x"]
    assert cli.for_hydra(given) == given
    # Data of the user's own may have its root where it likes.
    own = ["--config-dir=conf", "data=mine", "data.source.root=PHOTOS"]
    assert cli.for_hydra(own) == own


def test_the_help_of_evaluate_lists_the_options_that_there_are() -> None:
    text = (CONF / "evaluate.yaml").read_text()
    listed = text.partition("Groups and their options:")[2].partition("All keys")[0]
    groups = dict(re.findall(r"^ +(data|metrics|metrics/network): ([^:]*)$", listed, re.MULTILINE))
    for group in ("data", "metrics", "metrics/network"):
        there = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
        assert re.split(r",\s+", groups[group].strip()) == there
