"""How runs end: complete, early, or while pictures are made; and what the next start does."""

import csv
import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import assert_same_tensors, checkpoint
from lightning.pytorch.callbacks import Callback
from makers.tiny import PAGE, TINY_METRICS, config

from ganzoo.callbacks import evaluation, spectra
from ganzoo.callbacks.evaluation import Evaluate
from ganzoo.callbacks.grid import SampleGrid
from ganzoo.callbacks.periods import picture_name, picture_period
from ganzoo.cli import for_hydra
from ganzoo.engine import preflight
from ganzoo.engine.checkpoint import load
from ganzoo.errors import UserError
from ganzoo.train import make_trainer
from ganzoo.train import train_config as train

LAST = {"growth.gif", "done"}


def state(folder: Path) -> tuple[str, str]:
    written = json.loads((folder / "state.json").read_text())
    return written["state"], written["sentence"]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("key", ["max_steps=3", "max_time=00:00:00:00", "fast_dev_run=2"])
def test_a_run_that_the_trainer_cuts_short_is_not_done(tmp_path, caplog, key) -> None:
    train(config(f"run_dir={tmp_path}", f"+trainer.{key}"))
    assert "done" not in names(tmp_path)
    assert state(tmp_path)[0] == "stopped"
    assert "is not done" in caplog.text
    train(config(f"run_dir={tmp_path}"))
    assert names(tmp_path) >= LAST
    assert state(tmp_path) == ("done", "")


SCORED = (
    "callbacks.metrics={_target_: ganzoo.callbacks.evaluation.Evaluate, suite: '${metrics}', "
    "every_kimg: 0.016, patience: 2}",
    *TINY_METRICS,
)


def test_patience_ends_and_completes_a_run(tmp_path, monkeypatch, caplog) -> None:
    """The first evaluation stays the best: those at 16, 32 and 48 of 80 images are enough."""
    monkeypatch.setattr(evaluation, "best_of", lambda evaluations, *_: evaluations[0])
    keys = (f"run_dir={tmp_path}", *SCORED)
    train(config(*keys))
    assert checkpoint(tmp_path)["ganzoo"]["images_seen"] == 48
    assert names(tmp_path) >= LAST
    assert (tmp_path / "done").read_text() == "48 images\n"
    assert state(tmp_path) == ("done", "")
    assert "has not improved in 2 evaluations" in caplog.text
    before = checkpoint(tmp_path)
    train(config(*keys))  # run again, it stays as it is
    assert_same_tensors(before, checkpoint(tmp_path))
    assert state(tmp_path) == ("done", "")
    train(config(*keys, "callbacks.metrics.patience=null"))  # more patience trains longer
    assert checkpoint(tmp_path)["ganzoo"]["images_seen"] == 80


def test_snapshots_stay_and_open(tmp_path) -> None:
    train(config(f"run_dir={tmp_path}", "callbacks.snapshots.every_kimg=0.032"))
    folder = tmp_path / "snapshots"
    assert names(folder) == {"000000.032.ckpt", "000000.064.ckpt"}
    assert [load(folder / name).images_seen for name in sorted(names(folder))] == [32, 64]
    assert not (tmp_path / "stages").exists()


def test_snapshots_that_will_not_fit_are_announced(tmp_path, caplog) -> None:
    keys = ("callbacks.snapshots.every_kimg=0.001", "total_kimg=1e9", "+trainer.max_steps=1")
    train(config(f"run_dir={tmp_path}", *keys))
    assert "callbacks.snapshots.every_kimg" in caplog.text


def test_batches_per_epoch_do_not_end_a_run(tmp_path) -> None:
    train(config(f"run_dir={tmp_path}", "+trainer.limit_train_batches=3"))
    assert checkpoint(tmp_path)["ganzoo"]["images_seen"] == 80
    assert state(tmp_path) == ("done", "")


def test_pictures_of_the_end_are_made_up_for(tmp_path, monkeypatch) -> None:
    """Killed between the last checkpoint and `done`: run again, a complete run is left."""
    keys = ("callbacks.spectra={_target_: ganzoo.callbacks.spectra.Spectra, every_kimg: 0.03}",
            "callbacks.ticks.every_kimg=0.03")  # fmt: skip
    straight, cut = tmp_path / "straight", tmp_path / "cut"
    train(config(f"run_dir={straight}", *keys))
    with monkeypatch.context() as patch:
        patch.setattr(SampleGrid, "_write_film", lambda *_: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(SystemExit) as ended:
            train(config(f"run_dir={cut}", *keys))
    assert ended.value.code == 130
    assert state(cut) == ("stopped", "stopped by SIGINT")
    assert checkpoint(cut)["ganzoo"]["images_seen"] == 80
    assert not LAST & names(cut)
    train(config(f"run_dir={cut}", *keys))
    assert state(cut) == ("done", "")
    assert names(cut) == names(straight) >= LAST
    assert (cut / "spectra.csv").read_text() == (straight / "spectra.csv").read_text()
    seen = [
        [row["images_seen"] for row in csv.DictReader((folder / "metrics.csv").open())]
        for folder in (straight, cut)
    ]
    assert seen[0] == seen[1]
    assert seen[0][-1] == "80"
    before = (cut / "last.ckpt").read_bytes()
    monkeypatch.setattr(
        spectra, "singular_values", lambda _: pytest.fail("a complete run is repeated")
    )
    train(config(f"run_dir={cut}", *keys))
    assert (cut / "last.ckpt").read_bytes() == before
    assert_same_tensors(checkpoint(cut)["state_dict"], checkpoint(straight)["state_dict"])


def test_metrics_of_the_end_are_made_up_for(tmp_path, monkeypatch) -> None:
    keys = (f"run_dir={tmp_path}", "callbacks.metrics={_target_: ganzoo.callbacks.evaluation."
            "Evaluate, suite: ${metrics}, every_kimg: 1}", *TINY_METRICS)  # fmt: skip
    inner = Evaluate._evaluate

    def stopped(self, trainer, gan) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        inner(self, trainer, gan)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluate, "_evaluate", stopped)
        with pytest.raises(SystemExit) as ended:
            train(config(*keys))
    assert ended.value.code == 143
    assert not {"done", "metrics.json", "best.ckpt"} & names(tmp_path)
    train(config(*keys))
    assert names(tmp_path) >= LAST | {"metrics.json", "best.ckpt"}
    (saved,) = checkpoint(tmp_path)["callbacks"]["Evaluate"]["evaluations"]
    assert saved["images_seen"] == 80


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_before_training(tmp_path, monkeypatch, number) -> None:
    inner = preflight.try_stage

    def signalled(*given):
        os.kill(os.getpid(), number)
        return inner(*given)

    monkeypatch.setattr(preflight, "try_stage", signalled)
    with pytest.raises(SystemExit) as ended:
        train(config(f"run_dir={tmp_path}"))
    assert ended.value.code == 128 + number
    assert state(tmp_path) == ("stopped", f"stopped by {signal.Signals(number).name}")
    assert "last.ckpt" not in names(tmp_path)


def test_the_schedulers_signal_before_training_saves_something(tmp_path, monkeypatch) -> None:
    inner = preflight.try_stage

    def signalled(*given):
        os.kill(os.getpid(), signal.SIGUSR1)
        return inner(*given)

    monkeypatch.setattr(preflight, "try_stage", signalled)
    with pytest.raises(SystemExit) as ended:
        train(config(f"run_dir={tmp_path}"))
    assert ended.value.code == 128 + signal.SIGUSR1
    assert checkpoint(tmp_path)["ganzoo"]["images_seen"] == 8


# -- files of others in the run folder -------------------------------------------------------------


def test_strangers_files_do_not_end_a_run(tmp_path, caplog) -> None:
    """Garbage in what a run continues, and pictures that are not its own."""
    keys = (f"run_dir={tmp_path}", "callbacks.spectra={_target_: ganzoo.callbacks.spectra.Spectra}",
            "callbacks.sentinel={_target_: ganzoo.callbacks.sentinel.Sentinel,"
            " every_kimg: 0.04}")  # fmt: skip
    train(config(*keys))
    samples = tmp_path / "samples"
    for name in ("mine.png", "._000000.000.png", "000000.020.png", "000000.024.png"):
        (samples / name).write_bytes(b"x" * (name != "000000.024.png"))
    whole = (samples / "000000.040.png").read_bytes()
    (samples / "000000.040.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "last.ckpt.partial").mkdir()
    (tmp_path / "warnings.json").write_bytes(b"\xff{")
    (tmp_path / "spectra.csv").write_bytes(b"")
    with (tmp_path / "metrics.csv").open("ab") as file:
        file.write(b"\xff\xfegarbage,,\nmore\n" + 99 * b"," + b"\n8,")
    train(config(*keys, "total_kimg=0.16"))
    assert state(tmp_path) == ("done", "")
    assert names(tmp_path) >= LAST | {"spectra.png"}
    assert "leaves out 000000.020.png, 000000.024.png, 000000.040.png" in caplog.text
    assert "are not rows of numbers" in caplog.text
    assert "the alarms so far are not known" in caplog.text
    assert (samples / "mine.png").read_bytes() == b"x"
    seen = [int(row["images_seen"]) for row in csv.DictReader((tmp_path / "metrics.csv").open())]
    assert sorted(set(seen)) == [40, 80, 120, 160]


@pytest.mark.parametrize(("name", "folder"), [("train.log", True), ("samples", False)])
def test_names_that_are_taken_are_refused_at_once(tmp_path, name, folder) -> None:
    (tmp_path / name).mkdir() if folder else (tmp_path / name).write_text("mine")
    with pytest.raises(UserError, match=f"{name} is not a fi?o?l"):
        train(config(f"run_dir={tmp_path}"))


def test_a_picture_that_fails_leaves_no_holes(tmp_path) -> None:
    """It ends the run; started again, the callbacks that came after it in that iteration act."""
    keys = ("callbacks.ticks.every_kimg=0.02", "callbacks.grid.every_kimg=0.024",
            "callbacks.save.every_kimg=1")  # fmt: skip
    straight, failed = tmp_path / "straight", tmp_path / "failed"
    train(config(f"run_dir={straight}", *keys))
    (failed / "samples" / "000000.048.png").mkdir(parents=True)
    with pytest.raises(UserError, match="not a regular file"):
        train(config(f"run_dir={failed}", *keys))
    assert "last.ckpt" not in names(failed)
    (failed / "samples" / "000000.048.png").rmdir()
    train(config(f"run_dir={failed}", *keys))
    assert names(failed / "samples") == names(straight / "samples")


def test_pictures_do_not_fail_a_finished_run(tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setattr("ganzoo.callbacks.page.plot_curves", lambda *_: 1 / 0)
    train(config(f"run_dir={tmp_path}", PAGE))
    assert state(tmp_path) == ("done", "")
    assert "index.html could not be made (division by zero)" in caplog.text


# -- keys of Lightning -----------------------------------------------------------------------------

LIGHTNING = "lightning.pytorch"


def test_a_list_of_loggers_makes_all_of_them(tmp_path) -> None:
    keys = for_hydra(["logger=[wandb,tensorboard]", f"run_dir={tmp_path}"])
    trainer = make_trainer(config(*keys), tmp_path, 0)
    kinds = [type(logger).__name__ for logger in trainer.loggers]
    assert kinds == ["MetricsCSV", "Wandb", "TensorBoard"]


def test_loggers_of_lightning_get_the_numbers(tmp_path) -> None:
    """Also two at a time, and next to a callback that logs by the number of batches."""
    train(config(
        f"run_dir={tmp_path}",
        *(f"+logger.{name}={{_target_: {LIGHTNING}.loggers.CSVLogger, save_dir: {tmp_path}/{name}}}"
          for name in "ab"),
        f"+callbacks.device._target_={LIGHTNING}.callbacks.DeviceStatsMonitor",
        "+callbacks.device.cpu_stats=true", "+trainer.log_every_n_steps=1",
        "+callbacks.x._target_=test_endings.Monitor", "trainer.profiler=simple",
    ))  # fmt: skip
    for name in ("a", "b"):
        (written,) = (tmp_path / name).rglob("metrics.csv")
        assert "losses/d_loss" in written.read_text()
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open()))
    assert any("DeviceStatsMonitor" in name for name in rows[0])
    assert {int(row["images_seen"]) % 8 for row in rows} == {0}
    assert Monitor.seen > 0
    assert "run_training_epoch" in (tmp_path / "fit-profile.txt").read_text()


class Monitor(Callback):
    """Keeps what callbacks of Lightning can monitor."""

    seen = 0.0

    def on_train_end(self, trainer, gan) -> None:
        Monitor.seen = float(trainer.callback_metrics["losses/d_loss"])


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("+trainer.gradient_clip_val=1", r"use model\.clip="),
        ("+trainer.accumulate_grad_batches=2", r"use model\.accumulate="),
        ("+trainer.max_epochs=3", "use total_kimg"),
        ("trainer.strategy=fsdp", "use trainer=ddp"),
        ("+callbacks.x={_target_: lightning.pytorch.callbacks.ModelCheckpoint}", "best.ckpt"),
        ("+callbacks.x={_target_: lightning.pytorch.callbacks.RichProgressBar}", "callbacks.bar"),
        ("+callbacks.x={_target_: lightning.pytorch.callbacks.EarlyStopping, monitor: x}",
         "when an epoch ends"),
        ("trainer.accelerator=abacus", "Lightning refuses .*abacus"),
    ],
)  # fmt: skip
def test_keys_that_have_no_effect_here_name_ours(tmp_path, key, sentence) -> None:
    with pytest.raises(UserError, match=sentence):
        make_trainer(config(key), tmp_path, 0)


# -- names of pictures -----------------------------------------------------------------------------


def test_pictures_have_names_of_their_own_and_are_not_too_many(tmp_path) -> None:
    gan = SimpleNamespace(total_images=2000, images_seen=160, tick_kimg=lambda images: 0.16)
    assert picture_name(gan, None) == "000000.160"
    assert picture_period(gan, 10.0) == 10.0
    assert picture_period(gan, None) is None
    gan.total_images = 128_000_000
    assert picture_period(gan, 10.0) == 130.0
    assert picture_name(gan, 10.0) == "000000"
