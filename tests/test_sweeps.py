"""Sweeps: folders, launchers, a failing run among good ones, kills, Optuna, torchrun."""

import csv
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from multiprocessing import current_process
from pathlib import Path

import pytest
import torch
from conftest import assert_same_tensors, checkpoint, run
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from makers.tiny import TINY, TINY_METRICS
from makers.wandb_world import kept
from omegaconf import OmegaConf

from ganzoo.runs.state import read_state
from ganzoo.runs.sweeps import Folders, objective

# Of any model; without metrics.
SMALL = tuple(key for key in TINY if not key.startswith("model."))
TINY_DCGAN = ("model.nz=8", "model.generator.ngf=4", "model.discriminator.ndf=4")
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "WANDB_MODE": "offline"}
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
IN_TWO = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")


def command(folder: Path, *overrides: str, launcher: tuple[str, ...] = ()) -> list[str]:
    """The command line of a sweep in `folder`."""
    start = [sys.executable, *launcher, "-m", "ganzoo.train", "-m", *SMALL]
    return [*start, f"sweep_dir={folder}", *overrides]


def sweep(folder: Path, *overrides: str, **options: object) -> subprocess.CompletedProcess[str]:
    return run(command(folder, *overrides), env=ENVIRONMENT, **options)


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if (p / "state.json").is_file())


def value(run_dir: Path) -> float:
    return json.loads((run_dir / "metrics.json").read_text())["best"]["value"]


def with_metrics(*overrides: str) -> list[str]:
    """Keys of runs that are scored."""
    return [*TINY_METRICS, "callbacks.evaluate.every_kimg=0.04", *overrides]


def needs(package: str) -> pytest.MarkDecorator:
    """Skip a test without a package of the extra `sweep`."""
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"{package} is not installed: make setup-all")


SCORED = tuple(key for key in SMALL if key != "callbacks.evaluate=null")


@pytest.mark.parametrize(
    "launcher",
    [
        [],
        pytest.param(["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"], marks=needs("joblib")),
        pytest.param(
            ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5"],
            marks=needs("submitit"),
        ),
    ],
    ids=["basic", "joblib", "submitit"],
)
@pytest.mark.slow
def test_two_models_and_two_seeds_under_each_launcher(launcher: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    result = sweep(
        folder, "model=dcgan,biggan", "seed=0,1", "total_kimg=0.016", "logger=wandb", *launcher
    )
    assert result.returncode == 0, result.stdout + result.stderr
    runs = ["biggan_seed-0", "biggan_seed-1", "dcgan_seed-0", "dcgan_seed-1"]
    assert names(folder) == runs
    ends = [read_state(folder / name) for name in runs]
    assert [end.state for end in ends if end] == ["done"] * 4
    assert [end.about["model"] for end in ends if end] == ["biggan", "biggan", "dcgan", "dcgan"]
    assert "sweep: 4 of 4 runs are done" in result.stdout
    # A wandb run each, of its own.
    ids = [(folder / name / "wandb" / "id.txt").read_text() for name in runs]
    assert len(set(ids)) == 4
    for name, identity in zip(runs, ids, strict=True):
        ((told,),) = (one.runs for one in kept(folder / name))
        assert (told.run_id, told.run_group, told.display_name) == (identity, "sweep", name)
    weights = [checkpoint(folder / name)["state_dict"] for name in runs]
    first = next(key for key in weights[2] if key.endswith("weight"))
    assert not torch.equal(weights[2][first], weights[3][first])


def test_a_run_that_fails_does_not_take_the_others_along(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    # One is refused before it trains, one finds a number that is not finite while it does.
    keys = [*TINY_DCGAN, "model.optimizers.generator.lr=0.001,-1,1e30", "batch_size=8"]
    result = sweep(folder, *keys)
    assert result.returncode == 1
    assert names(folder) == ["lr--1", "lr-0.001", "lr-1e+30"]
    ends = {name: read_state(folder / name) for name in names(folder)}
    assert [end.state for end in ends.values() if end].count("done") == 1
    failed = {name: end for name, end in ends.items() if end and end.state == "failed"}
    assert len(failed) == 2
    for name, end in failed.items():
        assert end.sentence
        assert f"{name}: failed. {end.sentence}" in result.stdout
    assert f"sweep_dir={folder}" in result.stdout.splitlines()[-1]


def test_a_sweep_that_was_killed_goes_on(tmp_path: Path) -> None:
    keys = [*TINY_DCGAN, "seed=0,1,2", "total_kimg=0.4"]
    straight, folder = tmp_path / "straight", tmp_path / "sweep"
    assert sweep(straight, *keys).returncode == 0
    process = subprocess.Popen(
        command(folder, *keys), env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    )
    wait_for(folder / "seed-1" / "last.ckpt")
    process.send_signal(signal.SIGKILL)
    process.wait()
    ends = [read_state(folder / name) for name in ("seed-0", "seed-1")]
    assert [end.state for end in ends if end] == ["done", "failed"]
    finished = (folder / "seed-0" / "last.ckpt").stat().st_mtime_ns
    again = sweep(folder, *keys)
    assert again.returncode == 0, again.stdout + again.stderr
    assert (folder / "seed-0" / "last.ckpt").stat().st_mtime_ns == finished
    assert "seed-0 is complete" in again.stdout
    assert "resuming at" in again.stdout
    for name in ("seed-0", "seed-1", "seed-2"):
        assert_same_tensors(checkpoint(straight / name), checkpoint(folder / name))


def test_a_signal_stops_the_sweep_with_the_run(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    keys = [*TINY_DCGAN, "seed=0,1", "total_kimg=100"]
    process = subprocess.Popen(
        command(folder, *keys), env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    )
    wait_for(folder / "seed-0" / "last.ckpt")
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert names(folder) == ["seed-0"]
    assert f"run the same command with sweep_dir={folder} to resume" in out
    end = read_state(folder / "seed-0")
    assert end
    assert (end.state, end.sentence) == ("stopped", "stopped by SIGTERM")


def wait_for(path: Path, seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not path.is_file():
        assert time.monotonic() < end, f"{path} was not written"
        time.sleep(0.02)


@needs("optuna")
@pytest.mark.slow
def test_optuna_searches_and_goes_on(tmp_path: Path) -> None:
    keys = [
        *with_metrics(*TINY_DCGAN, "total_kimg=0.04"),
        "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=6",
        "hydra.sweeper.n_jobs=1",
        "model.optimizers.generator.lr=tag(log,interval(0.0001,0.1))",
        "model.generator.ngf=choice(4,6)",
    ]
    keys = [key for key in keys if key != "model.generator.ngf=4"]
    line = [sys.executable, "-m", "ganzoo.train", "-m", *SCORED]
    results = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        result = run([*line, f"sweep_dir={folder}", *keys], env=ENVIRONMENT)
        assert result.returncode == 0, result.stdout + result.stderr
        results.append((folder / "optimization_results.yaml").read_text())
    assert names(tmp_path / "a") == names(tmp_path / "b")
    assert len(names(tmp_path / "a")) == 6
    best = min(value(tmp_path / "a" / name) for name in names(tmp_path / "a"))
    with (tmp_path / "a" / "leaderboard.csv").open(newline="") as file:
        ranked = list(csv.DictReader(file))
    assert len(ranked) == 6
    assert [float(row["best"]) for row in ranked] == sorted(float(row["best"]) for row in ranked)
    assert float(ranked[0]["best"]) == pytest.approx(best)
    assert results[0] == results[1]
    assert f"best_value: {best}" in results[0]
    # Run again, it finds the same trials done.
    again = run([*line, f"sweep_dir={tmp_path / 'a'}", *keys], env=ENVIRONMENT)
    assert again.stdout.count("is complete") == 6
    assert (tmp_path / "a" / "optimization_results.yaml").read_text() == results[0]


@needs("optuna")
@pytest.mark.slow
def test_optuna_goes_on_past_a_trial_that_fails(tmp_path: Path) -> None:
    keys = [
        *with_metrics(*TINY_DCGAN, "total_kimg=0.04"),
        "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=3",
        "hydra/sweeper/sampler=grid",
        "model.optimizers.generator.lr=choice(0.001,-1.0,0.002)",
    ]
    line = [sys.executable, "-m", "ganzoo.train", "-m", *SCORED, f"sweep_dir={tmp_path / 'a'}"]
    result = run([*line, *keys], env=ENVIRONMENT)
    assert result.returncode == 1
    ends = [read_state(tmp_path / "a" / name) for name in names(tmp_path / "a")]
    assert sorted(end.state for end in ends if end) == ["done", "done", "failed"]


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        (["run_dir=somewhere", "seed=0,1"], "give sweep_dir"),
        pytest.param(
            ["hydra/sweeper=optuna", "seed=choice(0,1)"],
            "keep callbacks.evaluate",
            marks=needs("optuna"),
        ),
        (["seed=0,1", "trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu"], "torchrun"),
    ],
)
def test_what_cannot_be_a_sweep_is_refused(keys: list[str], sentence: str, tmp_path: Path) -> None:
    result = sweep(tmp_path / "sweep", *TINY_DCGAN, *keys, cwd=tmp_path)
    assert result.returncode == 1
    said = result.stdout + result.stderr
    assert sentence in said
    assert "Traceback" not in said
    assert not list(tmp_path.rglob("last.ckpt"))


@needs("optuna")
def test_a_search_in_the_wrong_direction_is_refused(tmp_path: Path) -> None:
    keys = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=1", "seed=choice(0,1)"]
    line = [sys.executable, "-m", "ganzoo.train", "-m", *SCORED, f"sweep_dir={tmp_path}"]
    for keys_, wanted in (
        (["hydra.sweeper.direction=maximize"], "minimize"),
        (["callbacks.evaluate.monitor=is"], "maximize"),
    ):
        result = run([*line, *with_metrics(*TINY_DCGAN), *keys, *keys_], env=ENVIRONMENT)
        assert result.returncode == 1
        assert f"set hydra.sweeper.direction={wanted}" in result.stdout


@pytest.mark.slow
def test_two_runs_of_two_processes_under_torchrun(tmp_path: Path) -> None:
    keys = [*TINY_DCGAN, "seed=0,1", "sync_batchnorm=true", "precision=64-true"]
    two = run(command(tmp_path / "two", *keys, *IN_TWO, launcher=TORCHRUN), env=ENVIRONMENT)
    assert two.returncode == 0, two.stdout + two.stderr
    assert sweep(tmp_path / "one", *keys).returncode == 0
    assert names(tmp_path / "two") == ["seed-0", "seed-1"]
    for name in ("seed-0", "seed-1"):
        one, both = (checkpoint(tmp_path / n / name)["state_dict"] for n in ("one", "two"))
        assert_same_tensors(one, both, atol=1e-10)
    assert two.stdout.count("sweep: 2 of 2 runs are done") == 1


class FailsInOne(Callback):
    """Something that goes wrong in the second process only."""

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_rank == 1:
            raise RuntimeError("the second process has no luck")


@pytest.mark.slow
def test_a_run_that_fails_in_all_processes_does_not_take_the_others_along(tmp_path: Path) -> None:
    keys = [*TINY_DCGAN, "model.optimizers.generator.lr=-1,0.001", *IN_TWO]
    result = run(command(tmp_path / "sweep", *keys, launcher=TORCHRUN), env=ENVIRONMENT)
    assert result.returncode == 1
    ends = [read_state(tmp_path / "sweep" / name) for name in ("lr--1", "lr-0.001")]
    assert [end.state for end in ends if end] == ["failed", "done"]


@pytest.mark.slow
def test_a_run_that_fails_in_one_process_ends_the_sweep(tmp_path: Path) -> None:
    keys = [*TINY_DCGAN, "seed=0,1", "+callbacks.bad._target_=test_sweeps.FailsInOne", *IN_TWO]
    result = run(command(tmp_path / "sweep", *keys, launcher=TORCHRUN), env=ENVIRONMENT)
    assert result.returncode == 1
    assert "the second process has no luck" in result.stderr + result.stdout
    assert names(tmp_path / "sweep") == ["seed-0"]
    end = read_state(tmp_path / "sweep" / "seed-0")
    assert end
    assert end.state in ("failed", "stopped")


@pytest.mark.parametrize(("seen", "expected"), [("", "1"), ("4,7,9", "7")])
def test_workers_side_by_side_take_a_gpu_each(seen, expected, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(current_process(), "name", "LokyProcess-5")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    Folders().on_job_start(OmegaConf.create())
    assert os.environ["CUDA_VISIBLE_DEVICES"] == expected


def test_main_returns_the_objective(tmp_path: Path) -> None:
    assert objective(tmp_path) is None
    (tmp_path / "metrics.json").write_text('{"best": {"images_seen": 8, "value": 1.5}}')
    assert objective(tmp_path) == 1.5
