"""metrics.csv, wandb and TensorBoard."""

import csv
import os
from pathlib import Path

import pytest
import wandb
from conftest import run, train_command
from makers.tiny import config
from makers.wandb_world import KEY
from PIL import Image

from ganzoo.loggers.csv import MetricsCSV, read_rows
from ganzoo.loggers.wandb import Wandb
from ganzoo.train import train_config as train


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_csv_takes_new_columns_and_missing_values(tmp_path: Path) -> None:
    logger = MetricsCSV(tmp_path)
    logger.log_metrics({"a": 1.5}, step=10)
    logger.log_metrics({"a": 2.5, "b": 0.1}, step=20)
    logger.log_metrics({"b": 0.2}, step=30)
    assert table(tmp_path / "metrics.csv") == [
        {"images_seen": "10", "a": "1.5", "b": ""},
        {"images_seen": "20", "a": "2.5", "b": "0.1"},
        {"images_seen": "30", "a": "", "b": "0.2"},
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_a_column_that_comes_late_has_its_place_from_the_start(tmp_path, monkeypatch) -> None:
    rewritten: list[int] = []
    rewrite = MetricsCSV._rewrite

    def counting(self: MetricsCSV, rows: list[dict[str, str]]) -> None:
        rewritten.append(len(rows))
        rewrite(self, rows)

    monkeypatch.setattr(MetricsCSV, "_rewrite", counting)
    accuracy = (
        "{_target_: ganzoo.callbacks.accuracy.DiscriminatorAccuracy, every_kimg: 0.04, num: 8}"
    )
    keys = (f"callbacks.accuracy={accuracy}", "callbacks.ticks.every_kimg=0.008")
    train(config(*keys, f"run_dir={tmp_path}"))
    first, *_, last = table(tmp_path / "metrics.csv")
    assert first["accuracy/fakes"] == ""
    assert 0 <= float(last["accuracy/fakes"]) <= 1
    assert rewritten == [0]


def test_csv_of_a_resumed_run_drops_what_comes_again(tmp_path: Path) -> None:
    first = MetricsCSV(tmp_path)
    for seen in (10, 20, 30):
        first.log_metrics({"a": seen}, step=seen)
    with first.path.open("a") as file:
        file.write("40,")  # a kill in the middle of a row
    again = MetricsCSV(tmp_path, images_seen=20)
    again.log_metrics({"a": 31, "b": 1}, step=30)
    assert [(r["images_seen"], r["a"], r["b"]) for r in table(first.path)] == [
        ("10", "10", ""),
        ("20", "20", ""),
        ("30", "31", "1"),
    ]
    MetricsCSV(tmp_path).log_metrics({"a": 0}, step=5)
    assert [r["images_seen"] for r in table(first.path)] == ["5"], "a new run starts a new table"


def test_rows_that_were_cut_off_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    assert read_rows(path) == []
    path.write_text("images_seen,a,b\n10,1,2\n20,1")
    assert read_rows(path) == [{"images_seen": "10", "a": "1", "b": "2"}]


def test_wandb_offline_is_a_whole_run(tmp_path: Path) -> None:
    folder = tmp_path / "some" / "run"
    environment = {**os.environ, "WANDB_MODE": "offline"}
    result = run(train_command(folder, "logger=wandb"), env=environment, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (folder / "done").exists()
    assert "wandb: offline" in result.stdout
    assert "wandb sync" in result.stdout
    assert "Traceback" not in result.stdout + result.stderr
    (left,) = (folder / "wandb").glob("offline-run-*")
    (log,) = left.glob("*.wandb")
    assert log.stat().st_size > 1000
    identity = (folder / "wandb" / "id.txt").read_text()
    assert left.name.endswith(identity)
    # The command that it names is one that finds the run.
    named = next(line for line in result.stdout.splitlines() if "wandb sync" in line)
    path = Path(named.split("`wandb sync ")[1].split("`")[0])
    assert list(path.glob("*.wandb")), f"{path} is no folder that wandb sync takes"
    again = Wandb(folder)
    assert again._run_id() == identity
    assert table(folder / "metrics.csv")
    assert [p.name for p in tmp_path.iterdir()] == ["some"], "nothing beside the run folder"


@pytest.fixture
def tiny(tmp_path: Path) -> tuple[str, ...]:
    return (f"run_dir={tmp_path}", "total_kimg=0.016", "callbacks.grid.every_kimg=0.008")


def test_wandb_that_fails_does_not_fail_the_run(tiny, tmp_path: Path, monkeypatch, caplog) -> None:
    started = []
    inner = wandb.init

    def fails(*args, mode=None, **kwargs):
        started.append(mode)
        if mode != "disabled":
            raise wandb.errors.CommError("the server is on fire\nand more")
        return inner(*args, mode=mode, **kwargs)

    monkeypatch.setattr(wandb, "init", fails)
    wandb.teardown()  # what it knows of the environment
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    train(config(*tiny, "logger=wandb"))
    assert started == ["online", "offline", "disabled"]
    assert (tmp_path / "done").exists()
    assert "the server is on fire" in caplog.text
    assert "and more" not in caplog.text


def test_tensorboard_writes_events(tiny, tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train(config(*tiny, "logger=tensorboard", "callbacks.ticks.every_kimg=0.008"))
    seen = events.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    rows = table(tmp_path / "metrics.csv")
    scalars = seen.Scalars("losses/d_loss")
    assert [s.step for s in scalars] == [8, 16] == [int(r["images_seen"]) for r in rows]
    assert [s.value for s in scalars] == pytest.approx(
        [float(r["losses/d_loss"]) for r in rows], rel=1e-6
    )
    assert [image.step for image in seen.Images("pictures/samples")] == [0, 8, 16]
    (tmp_path / "x.png").write_bytes(seen.Images("pictures/samples")[0].encoded_image_string)
    name = "samples/000000.000.png"
    assert Image.open(tmp_path / "x.png").tobytes() == Image.open(tmp_path / name).tobytes()
