"""Runs that are stopped, killed and started again end exactly where a straight run does."""

import csv
import random
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import assert_same_tensors, checkpoint, group_is_gone, run, train_command
from makers import warm
from makers.tiny import config

from ganzoo.config import make
from ganzoo.train import train_config as train

LONG = (
    "total_kimg=1.6",
    "callbacks.ticks.every_kimg=0.1",
    "callbacks.save.every_kimg=0.1",
    "callbacks.grid.every_kimg=0.5",
    "model.ema_kimg=0.5",
    "model.ema_rampup=null",
)
TWO = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")

GROUPS = ("losses/", "logits/", "gradient_norms/", "weight_norms/")  # what training determines


def rows(run_dir: Path) -> list[dict[str, str]]:
    path = run_dir / "metrics.csv"
    return list(csv.DictReader(path.open())) if path.is_file() else []


def images(run_dir: Path) -> list[int]:
    return [int(row["images_seen"]) for row in rows(run_dir) if row["images_seen"].isdigit()]


def interrupt(
    run_dir: Path, number: int, at_images: int, *overrides: str, delay: float = 0.0
) -> subprocess.CompletedProcess[str]:
    """Start the run, send its first process a signal once it has logged that many images."""
    with warm.Popen(
        train_command(run_dir, *LONG, *overrides),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # a process group of its own, to see what is left of it
    ) as process:
        deadline = time.monotonic() + 120
        while max(images(run_dir), default=0) < at_images:
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                pytest.fail(f"ended before {at_images} images: {process.communicate()[0]}")
            time.sleep(0.01)
        time.sleep(delay)
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.pid, process.returncode, output)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("straight")
    train(config(*LONG, f"run_dir={folder}"))
    return folder


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """One run: stopped by SIGTERM, killed, stopped by SIGINT, then left alone."""
    folder = tmp_path_factory.mktemp("interrupted")
    seen = SimpleNamespace(folder=folder, states=[])

    def record(result: subprocess.CompletedProcess[str]) -> None:
        saved = checkpoint(folder)["ganzoo"]["images_seen"]
        done = (folder / "done").exists()
        seen.states.append(SimpleNamespace(result=result, saved=saved, done=done))

    record(interrupt(folder, signal.SIGTERM, 200, "data.workers=2"))
    # What a kill in the middle of writing a checkpoint leaves behind.
    (folder / "last.ckpt.partial").write_bytes((folder / "last.ckpt").read_bytes()[:999])
    record(interrupt(folder, signal.SIGKILL, 500, delay=random.Random(2).uniform(0, 0.2)))
    record(interrupt(folder, signal.SIGINT, 900))
    train(config(*LONG, f"run_dir={folder}"))
    return seen


def test_interrupted_runs_equal_straight_ones(interrupted, straight) -> None:
    ours, theirs = checkpoint(interrupted.folder), checkpoint(straight)
    assert ours["ganzoo"]["images_seen"] == theirs["ganzoo"]["images_seen"] == 1600
    weights = ours["state_dict"]
    for kind in ("generator", "discriminator", "average"):
        assert any(k.startswith(kind) and k.endswith("weight") for k in weights), kind
        assert any(k.startswith(kind) and k.endswith("running_var") for k in weights), kind
    assert_same_tensors(weights, theirs["state_dict"])
    assert len(ours["optimizer_states"]) == 2
    assert_same_tensors(ours["optimizer_states"], theirs["optimizer_states"])


def test_the_straight_run_has_trained(straight) -> None:
    """Equality says nothing of runs that stand still."""
    torch.manual_seed(0)
    start, end = make(config(*LONG).model).state_dict(), checkpoint(straight)["state_dict"]
    for name, value in start.items():
        assert not torch.equal(value, end[name]), name
    for name in start:
        if name.startswith("average") and name.endswith("weight"):
            assert not torch.equal(end[name], end[name.replace("average", "generator")]), name


def test_signals_leave_a_checkpoint_and_their_exit_code(interrupted) -> None:
    term, _, interrupt_ = interrupted.states
    assert term.result.returncode == 128 + signal.SIGTERM, term.result.stdout
    assert 200 <= term.saved < 1600
    assert "SIGTERM" in term.result.stdout
    assert interrupt_.result.returncode == 128 + signal.SIGINT, interrupt_.result.stdout
    assert 900 <= interrupt_.saved < 1600
    for state in interrupted.states:
        assert "Traceback" not in state.result.stdout


def test_progress_survives_a_kill(interrupted) -> None:
    term, killed, *_ = interrupted.states
    assert killed.result.returncode == -signal.SIGKILL
    assert term.saved < killed.saved
    assert killed.saved % 100 < 8, "saved by the clock, not by the signal"


def test_done_is_written_at_the_very_end(interrupted) -> None:
    assert not any(state.done for state in interrupted.states)
    assert (interrupted.folder / "done").exists()
    assert not (interrupted.folder / "last.ckpt.partial").exists()


def test_resumed_metrics_are_those_of_the_straight_run(interrupted, straight) -> None:
    """Each tick once, in order, the same numbers; but for ticks that an interruption cut in two."""
    ours, theirs = rows(interrupted.folder), rows(straight)
    seen = [int(row["images_seen"]) for row in ours]
    assert seen == sorted(set(seen))
    assert len(theirs) == 16
    ours_at = {row["images_seen"]: row for row in ours}
    resumed_at = [state.saved for state in interrupted.states]
    stopped_at = {str(interrupted.states[0].saved), str(interrupted.states[2].saved)}
    assert set(ours_at) - {row["images_seen"] for row in theirs} <= stopped_at
    start, compared = 0, 0
    for row in theirs:
        now = int(row["images_seen"])
        whole = not any(start < at < now for at in resumed_at)
        names = [name for name in row if name.startswith(GROUPS)]
        assert len(names) == 9
        for name in names if whole else ():
            assert ours_at[row["images_seen"]][name] == row[name], (name, now)
            compared += 1
        start = now
    assert compared >= 13 * 6


def test_pictures_are_those_of_the_straight_run(interrupted, straight) -> None:
    names = {path.name for path in (straight / "samples").iterdir()}
    assert names == {path.name for path in (interrupted.folder / "samples").iterdir()}
    for name in names:
        a, b = (folder / "samples" / name for folder in (interrupted.folder, straight))
        assert a.read_bytes() == b.read_bytes(), name


def test_a_complete_run_is_left_alone_and_a_longer_one_goes_on(straight, tmp_path: Path) -> None:
    short = tmp_path / "short"
    train(config(*LONG, f"run_dir={short}", "total_kimg=0.8"))
    before = (short / "last.ckpt").read_bytes()
    train(config(*LONG, f"run_dir={short}", "total_kimg=0.8"))
    assert (short / "last.ckpt").read_bytes() == before
    assert (short / "done").exists()
    train(config(*LONG, f"run_dir={short}"))
    assert_same_tensors(checkpoint(short)["state_dict"], checkpoint(straight)["state_dict"])
    ours, theirs = rows(short), rows(straight)
    assert [r["images_seen"] for r in ours] == [r["images_seen"] for r in theirs]
    assert [r["losses/d_loss"] for r in ours] == [r["losses/d_loss"] for r in theirs]


@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed"])
def test_runs_in_other_precisions_go_on_exactly(tmp_path: Path, precision: str) -> None:
    keys = (f"precision={precision}", "total_kimg=0.2", "model.ema_kimg=0.5",
            "callbacks.metrics=null")  # fmt: skip
    train(config(*keys, f"run_dir={tmp_path}/straight"))
    train(config(*keys, f"run_dir={tmp_path}/parts", "total_kimg=0.1"))
    train(config(*keys, f"run_dir={tmp_path}/parts"))
    ours, theirs = checkpoint(tmp_path / "parts"), checkpoint(tmp_path / "straight")
    assert_same_tensors(ours["state_dict"], theirs["state_dict"])
    assert_same_tensors(ours["optimizer_states"], theirs["optimizer_states"])


def test_two_processes_stop_and_go_on(tmp_path: Path) -> None:
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    short = (*TWO, "total_kimg=0.4", "callbacks.ticks.every_kimg=0.05")
    other = run(train_command(straight, *LONG, *short), processes=2)
    assert other.returncode == 0, other.stderr
    result = interrupt(stopped, signal.SIGTERM, 100, *short)
    assert result.returncode == 128 + signal.SIGTERM, result.stdout
    assert group_is_gone(result.args)
    assert 100 <= checkpoint(stopped)["ganzoo"]["images_seen"] < 400
    assert not (stopped / "done").exists()
    again = run(train_command(stopped, *LONG, *short), processes=2)
    assert again.returncode == 0, again.stderr
    assert (stopped / "done").exists()
    ours, theirs = checkpoint(stopped), checkpoint(straight)
    assert ours["ganzoo"]["images_seen"] == 400
    for part in ("state_dict", "optimizer_states"):
        assert_same_tensors(ours[part], theirs[part])
