"""The list of runs: what is found, what is told of it, and that nothing breaks it."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from makers import warm
from makers.run_folders import make
from makers.tiny import TINY_METRICS, config
from rich.console import Console

from ganzoo.runs import folder as rundirs
from ganzoo.runs.__main__ import main
from ganzoo.runs.folder import Run, last_rows, look, natural, runs_under
from ganzoo.runs.table import table
from ganzoo.train import train_config as train


@pytest.fixture(autouse=True)
def _as_wide_as_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")


def lines_of(runs: list[Run], folder: Path, width: int = 100, **options: Any) -> list[str]:
    """The table as lines of text."""
    console = Console(width=width, file=io.StringIO(), **options)
    console.print(table(runs, folder, width=width))
    return console.file.getvalue().splitlines()


def listed(folder: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    main([str(folder), *more])
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run that is complete, `tiny/run`."""
    folder = tmp_path_factory.mktemp("trained")
    os.environ["GANZOO_CACHE"] = str(folder / "cache")
    overrides = [
        *TINY_METRICS,
        "callbacks.metrics={_target_:ganzoo.callbacks.evaluation.Evaluate,suite:${metrics},every_kimg:0.04}",
        "callbacks.ticks.every_kimg=0.016",
        f"run_dir={folder / 'tiny' / 'run'}",
        "seed=3",
    ]
    try:
        train(config(*overrides))
    finally:
        del os.environ["GANZOO_CACHE"]
    return folder


# -- one run ---------------------------------------------------------------------------------------


def test_a_real_run(trained) -> None:
    (run,) = runs_under(trained)
    assert run.path == trained / "tiny" / "run"
    assert (run.name, run.model, run.data) == ("run", "DCGAN", "Synthetic")
    assert (run.state, run.sentence, run.problems) == ("done", "", ())
    assert (run.kimg, run.total_kimg) == (0.08, 0.08)
    told = json.loads((run.path / "metrics.json").read_text())
    (score,) = run.scores
    assert (score.metric, score.best) == ("fd_tiny", told["best"]["value"])
    assert score.at_kimg == told["best"]["images_seen"] / 1000
    assert told["higher_is_better"] is score.up is False
    assert score.protocol in told["protocols"]
    assert run.images_per_second is not None
    assert run.images_per_second > 0
    assert run.seconds_left is None


def test_a_real_run_without_its_state(trained, tmp_path) -> None:
    old = shutil.copytree(trained / "tiny" / "run", tmp_path / "old")
    (old / "state.json").unlink()
    run = look(old)
    assert (run.state, run.model, run.data) == ("", "DCGAN", "Synthetic")
    assert run.sentence == "there is no state.json"


def test_how_far_a_running_run_is_and_how_long_it_takes(tmp_path) -> None:
    ticks = "".join(f"{i}000,0.5,{speed}\n" for i, speed in enumerate((1, 1, 20, 30, 25, 9, 1000)))
    make(tmp_path / "run", "running", rows=ticks + "8000,,\n", name="x", model="m", data="d")
    run = look(tmp_path / "run")
    assert (run.kimg, run.total_kimg) == (8, 80)
    assert run.images_per_second == 25  # the median of the last five
    assert run.seconds_left == 72000 / 25
    line = lines_of([run], tmp_path)[1]
    assert line.split() == ["run", "m", "d", "8/80", "running", "0:48:00", "25"]


def test_a_row_that_is_being_written_is_left_out(tmp_path) -> None:
    make(tmp_path / "run", rows="1000,0.5,20\n2000,0.5,3")
    assert look(tmp_path / "run").kimg == 80  # of one that is done
    make(tmp_path / "other", "failed", rows="1000,0.5,20\n2000,0.5,3", sentence="x")
    run = look(tmp_path / "other")
    assert (run.kimg, run.images_per_second, run.problems) == (1, 20, ())


def test_only_the_end_of_the_rows_is_read(tmp_path, monkeypatch) -> None:
    path = tmp_path / "metrics.csv"
    rows = [f"{i},0.5,{i if i % 100 == 50 else ''}\n" for i in range(100_000)]
    path.write_text("images_seen,losses/d_loss,speed/images_per_second\n" + "".join(rows))
    last = last_rows(path)
    assert last[-1] == {
        "images_seen": "99999",
        "losses/d_loss": "0.5",
        "speed/images_per_second": "",
    }
    assert [int(row["images_seen"]) for row in last] == list(range(100_000 - len(last), 100_000))
    assert len(last) < 2000
    assert any(row["speed/images_per_second"] for row in last)
    monkeypatch.setattr(rundirs, "TAIL", 8)  # smaller than a row
    assert "99950" in [row["speed/images_per_second"] for row in last_rows(path)]


def test_a_process_that_is_killed_and_one_that_goes_on(tmp_path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from ganzoo.runs.record import recorded\n"
        "with recorded(Path(sys.argv[1]), {'name': 'x', 'model': 'm', 'data': 'd'}):\n"
        "    print('in', flush=True)\n    time.sleep(60)"
    )
    (tmp_path / "run").mkdir()
    process = warm.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run")], stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        (run,) = runs_under(tmp_path)
        assert (run.state, run.model, run.problems) == ("running", "m", ())
    finally:
        process.kill()
        process.communicate()
    (run,) = runs_under(tmp_path)
    assert run.state == "failed"
    assert "killed" in " ".join(lines_of([run], tmp_path))


# -- what is broken --------------------------------------------------------------------------------


def spoil_config(run: Path) -> None:
    (run / "config.yaml").write_text("model:\n  _tar")


def spoil_metrics(run: Path) -> None:
    (run / "metrics.json").write_text('{"monitor": "fd", "best": {"imag')


def empty_metrics(run: Path) -> None:
    (run / "metrics.json").write_text("[1, 2]")


def spoil_rows(run: Path) -> None:
    (run / "metrics.csv").write_text("images_seen,speed/images_per_second\nmany,few\n")


def binary_rows(run: Path) -> None:
    (run / "metrics.csv").write_bytes(bytes(range(256)) * 40 + b"\n")


def spoil_state(run: Path) -> None:
    (run / "state.json").write_text('{"state": "runn')


def no_config(run: Path) -> None:
    (run / "config.yaml").unlink()


def folder_for_a_file(run: Path) -> None:
    (run / "metrics.csv").unlink()
    (run / "metrics.csv").mkdir()


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (spoil_config, "config.yaml cannot be read (ValueError: there is no total_kimg in it)"),
        (spoil_metrics, "metrics.json cannot be read (JSONDecodeError: "),
        (empty_metrics, "metrics.json cannot be read (TypeError: "),
        (spoil_rows, "metrics.csv cannot be read (ValueError: "),
        (binary_rows, "metrics.csv cannot be read (UnicodeDecodeError: "),
        (spoil_state, "state.json cannot be read ("),
        (no_config, "there is no config.yaml"),
        (folder_for_a_file, "metrics.csv cannot be read (Is a directory)"),
    ],
)
def test_a_broken_file_is_told_of_beside_the_others(tmp_path, capsys, spoil, told) -> None:
    make(tmp_path / "a" / "good", rows="1000,0.5,20\n", value=2.5)
    spoil(make(tmp_path / "a" / "bad", rows="1000,0.5,20\n", value=2.5))
    out = listed(tmp_path, capsys)
    assert "  good " in out
    assert "  bad " in out
    words = " ".join(out.split("  bad ")[1].split("  good ")[0].split())
    assert told.split(" cannot")[0].split()[0] in words
    parsed = {run["name"]: run for run in json.loads(listed(tmp_path, capsys, "--json"))["runs"]}
    assert parsed["good"]["problems"] == []
    why = [parsed["bad"]["sentence"] or "", *parsed["bad"]["problems"]]
    assert told in " ".join(why)


def test_a_folder_that_must_not_be_read(tmp_path, capsys, monkeypatch) -> None:
    make(tmp_path / "good")
    (tmp_path / "secret").mkdir()
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path).name == "secret":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    out = listed(tmp_path, capsys)
    assert "cannot be read" in out
    assert "denied)" in out
    assert "1 done, 1 unknown" in out


def test_a_run_deleted_while_it_is_read(tmp_path, capsys, monkeypatch) -> None:
    make(tmp_path / "gone")
    make(tmp_path / "stays")
    read = rundirs.read_state

    def read_and_delete(path: Path) -> Any:
        state = read(path)
        if path.name == "gone":
            shutil.rmtree(path)
        return state

    monkeypatch.setattr(rundirs, "read_state", read_and_delete)
    out = listed(tmp_path, capsys)
    assert "was deleted in the meantime" in out
    assert "1 done, 1 unknown" in out


def test_nothing_to_list(tmp_path, capsys) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "train.txt").touch()
    assert "There are no runs in" in listed(tmp_path, capsys)
    assert json.loads(listed(tmp_path, capsys, "--json"))["runs"] == []
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path / "nowhere")])
    assert "nowhere is not a folder: give" in str(stop.value.code)


def test_links_are_followed_once(tmp_path) -> None:
    make(tmp_path / "disk" / "a")
    root = tmp_path / "runs"
    make(root / "b")
    (root / "there").symlink_to(tmp_path / "disk")
    (root / "again").symlink_to(tmp_path / "disk")
    (root / "self").symlink_to(root / "self")
    (root / "up").symlink_to(tmp_path)
    (root / "inside").symlink_to(root / "b")
    assert sorted(run.path.name for run in runs_under(root)) == ["a", "b"]


def test_inside_a_run_there_are_no_runs(tmp_path) -> None:
    make(make(tmp_path / "run") / "evaluated")
    make(tmp_path / ".submitit" / "job")
    assert [run.path for run in runs_under(tmp_path)] == [tmp_path / "run"]
    assert [run.path for run in runs_under(tmp_path / "run")] == [tmp_path / "run"]


# -- the table -------------------------------------------------------------------------------------


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """A sweep of four, and a run by itself."""
    sweep = tmp_path / "sweeps" / "2026-01-01_00-00-00"
    make(sweep / "seed-10", "done", value=3.0, model="dcgan", data="emoji")
    make(sweep / "seed-2", "running", rows="40000,0.1,20\n", value=1.0, model="dcgan", data="emoji")
    make(sweep / "seed-1", "failed", "RuntimeError: no\nmore \033[31mmemory", model="biggan")
    make(sweep / "seed-3", "stopped", "stopped by SIGTERM", value=2.0, protocol="bbbbbbbb")
    make(tmp_path / "dcgan" / "emoji" / "alone", value=9.0, monitor="is_tiny", protocol="cccccccc")
    return tmp_path


def test_runs_of_a_sweep_lie_under_its_line(many, capsys) -> None:
    lines = listed(many, capsys).splitlines()
    heads = [line for line in lines if "sweeps" in line]
    assert len(heads) == 1
    assert heads[0].startswith("sweeps/2026-01-01_00-00-00 ")
    assert "1 running, 1 done" in heads[0]
    under = lines[lines.index(heads[0]) + 1 :]
    names = [line.split()[0] for line in under if re.match("  seed", line)]
    assert names[0] == "seed-2", "the running one"
    assert sorted(names) == ["seed-1", "seed-10", "seed-2", "seed-3"]
    assert any(line.startswith("dcgan/emoji/alone ") for line in lines)
    assert lines[-1] == "5 runs: 1 running, 2 done, 1 stopped, 1 failed"
    assert "\033" not in "\n".join(lines)
    assert "RuntimeError: no\\nmore" in next(line for line in under if "seed-1 " in line)


@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("name", ["alone", "seed-1", "seed-2", "seed-3", "seed-10"]),
        ("state", ["seed-2", "alone", "seed-10", "seed-3", "seed-1"]),
        # By metric, then protocol, then value; what has none comes last.
        ("best", ["seed-2", "seed-10", "seed-3", "alone", "seed-1"]),
    ],
)
def test_sorted_by(many, capsys, key, names) -> None:
    told = json.loads(listed(many, capsys, "--sort", key, "--json"))["runs"]
    assert [run["name"] for run in told] == names


def test_more_is_better_for_some(tmp_path, capsys) -> None:
    for name, value in (("a", 2.0), ("b", 7.0), ("c", float("nan")), ("d", 3.0)):
        make(tmp_path / name, value=value, monitor="AtoB/is_tiny")
    out = listed(tmp_path, capsys, "--sort", "best", "--json")
    told = json.loads(out, parse_constant=pytest.fail)["runs"]
    assert [run["name"] for run in told] == ["b", "d", "a", "c"]
    assert [run["scores"][0]["best"] for run in told] == [7, 3, 2, None]
    assert {run["scores"][0]["up"] for run in told} == {True}


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100])
def test_lines_fit_and_long_names_keep_their_ends(tmp_path, width) -> None:
    name = "biggan_" + "x" * 120 + "_seed-7"
    make(tmp_path / "s" / name, "failed", "too " * 60, model="m" * 40, value=1.25)
    make(tmp_path / "s" / "short", "running", rows="40000,0.1,20\n", data="d" * 40)
    lines = lines_of(runs_under(tmp_path), tmp_path, width=width)
    assert max(map(len, lines)) <= width
    if width >= 40:
        row = next(line for line in lines if line.startswith("  b"))
        assert re.match(r"  b\S*…\S*7 ", row)
        assert "1.25" in row
        assert any("short" in line for line in lines)


def test_colors_only_on_a_terminal(many, capsys) -> None:
    assert "\033" not in listed(many, capsys)
    lines = lines_of(runs_under(many), many, force_terminal=True, color_system="standard")
    plain = [re.sub(r"\033\[[\d;]*m", "", line) for line in lines]
    assert plain == lines_of(runs_under(many), many)
    assert any("\033[31mfailed" in line for line in lines)


def test_natural_order() -> None:
    assert sorted(["a10", "a9b", "a", "10", "9", "a9"], key=natural) == [
        "9", "10", "a", "a9", "a9b", "a10",
    ]  # fmt: skip
