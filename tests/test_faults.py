"""Faults of the machine, such as kills and full disks: nothing that was reached is lost."""

import csv
import errno
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import assert_same_tensors, checkpoint, run, train_command
from makers.tiny import config
from PIL import Image

from ganzoo.errors import UserError
from ganzoo.models.dcgan import DCGAN
from ganzoo.train import train_config as train


def same_runs(one: Path, other: Path) -> None:
    """Both folders have the same files; numbers, pictures and weights are equal."""
    names = [
        {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        for folder in (one, other)
    ]
    assert names[0] == names[1]
    for name in names[0]:
        a, b = one / name, other / name
        if a.suffix == ".ckpt":
            ours, theirs = (torch.load(path, weights_only=True) for path in (a, b))
            assert ours["ganzoo"]["images_seen"] == theirs["ganzoo"]["images_seen"], name
            for part in ("state_dict", "optimizer_states"):
                assert_same_tensors(ours[part], theirs[part])
        elif a.name == "metrics.csv":
            assert untimed(a) == untimed(b)
        elif (a.suffix in (".png", ".gif") and a.name != "curves.png") or a.name == "warnings.json":
            assert a.read_bytes() == b.read_bytes(), name


def untimed(path: Path) -> list[dict[str, str]]:
    """The rows of a `metrics.csv`, but for what was measured in seconds and bytes."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if not k.startswith("speed/")} for row in rows]


# -- killed ---------------------------------------------------------------------------------------

BACK = (
    "total_kimg=0.8",
    "callbacks.save.every_kimg=0.1",
    "callbacks.grid.every_kimg=0.2",
    "callbacks.sentinel={_target_:makers.faults.Once,every_kimg:0.04,action:rollback}",
)


def test_a_kill_after_going_back_changes_nothing(tmp_path: Path) -> None:
    """Back at 320 images, killed at 376: the next checkpoint would have been written at 400."""
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    train(config(*BACK, f"run_dir={straight}"))
    kill = "+callbacks.kill={_target_:makers.faults.Killed,images:376}"
    assert run(train_command(killed, *BACK, kill)).returncode == -signal.SIGKILL
    assert checkpoint(killed)["ganzoo"]["images_seen"] == 320
    assert checkpoint(killed)["ganzoo"]["rollbacks"] == 1
    (tmp_path / "killed.killed").unlink()
    train(config(*BACK, f"run_dir={killed}"))
    assert checkpoint(killed)["ganzoo"]["rollbacks"] == 1
    same_runs(straight, killed)


# -- full disks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["metrics.csv", "samples"])
def test_a_disk_that_fills_between_checkpoints(
    file: str, tmp_path: Path, train_main, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After 40 images, where last.ckpt is written, the disk takes no more numbers or pictures."""
    keys = ("callbacks.save.every_kimg=0.04", "callbacks.ticks.every_kimg=0.008")
    grid = "callbacks.grid.every_kimg=0.024"
    inner, save, full = Path.open, Image.Image.save, {"now": False}

    def step(gan: DCGAN, batch: Any, of: Any = DCGAN.step) -> Any:
        full["now"] = gan.images_seen >= 40
        return of(gan, batch)

    def opened(path: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        if full["now"] and file in path.parts[-2:] and mode[0] in "aw":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return inner(path, mode, *args, **options)

    def saved(picture: Image.Image, path: Path, *args: Any, **options: Any) -> None:
        if full["now"] and file in path.parts[-2:]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        save(picture, path, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(DCGAN, "step", step)
        patch.setattr(Path, "open", opened)
        patch.setattr(Image.Image, "save", saved)
        code, output = train_main(tmp_path / "full", *keys, grid)
    assert code == 1, output
    assert "the disk is full" in output
    assert "Traceback" not in output
    assert checkpoint(tmp_path / "full")["ganzoo"]["images_seen"] >= 40
    train(config(*keys, grid, f"run_dir={tmp_path / 'full'}"))
    train(config(*keys, grid, f"run_dir={tmp_path / 'straight'}"))
    same_runs(tmp_path / "straight", tmp_path / "full")


# -- workers --------------------------------------------------------------------------------------


def test_a_worker_that_the_kernel_kills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = (f"run_dir={tmp_path}", "callbacks.save.every_kimg=1", "total_kimg=0.16")

    def step(gan: DCGAN, batch: Any, of: Any = DCGAN.step) -> Any:
        if gan.images_seen == 40:
            for worker in multiprocessing.active_children():
                worker.kill()
                worker.join()
        return of(gan, batch)

    with monkeypatch.context() as patch:
        patch.setattr(DCGAN, "step", step)
        with pytest.raises(UserError, match=r"was killed.*memory.*data\.workers=1 or 0\.$"):
            train(config(*keys, "data.workers=1"))
    assert 48 <= checkpoint(tmp_path)["ganzoo"]["images_seen"] < 160
    assert not (tmp_path / "done").exists()
    assert train(config(*keys, "data.workers=0")).images_seen == 160
