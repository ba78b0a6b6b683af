"""Sweeps: folders, launchers, a failing run among good ones, kills, Optuna, torchrun."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from importlib.util import find_spec
from multiprocessing import current_process
from pathlib import Path

import pytest
import torch
from conftest import assert_same_tensors, checkpoint, run
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from makers import warm
from makers.tiny import TINY, TINY_METRICS, config
from makers.wandb_world import kept
from omegaconf import OmegaConf, open_dict

from ganzoo.config import composed
from ganzoo.runs.search import distribution, opened, tell
from ganzoo.runs.state import read_state
from ganzoo.runs.sweeps import Folders, objective
from ganzoo.train import train_config

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
    return [*TINY_METRICS, "callbacks.metrics.every_kimg=0.04", *overrides]


def needs(package: str, least: str = "0") -> pytest.MarkDecorator:
    """Skip a test without a package of the extra `sweep`."""
    missing = find_spec(package) is None or version(package) < least
    return pytest.mark.skipif(missing, reason=f"{package} is not installed: make setup-all")


SCORED = tuple(key for key in SMALL if key != "callbacks.metrics=null")


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
    process = warm.Popen(
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
    process = warm.Popen(command(folder, *keys), env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
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


# -- searches --------------------------------------------------------------------------------------

needs_optuna = needs("optuna", "4")


def search(folder: Path, *keys: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "ganzoo.train", "-m", *SCORED, f"sweep_dir={folder}"]
    keys_ = [*with_metrics(*TINY_DCGAN, "total_kimg=0.04"), "hydra/sweeper=search", *keys]
    return run([*line, *keys_], env=ENVIRONMENT)


@needs_optuna
def test_a_search_goes_on_as_if_it_had_not_been_stopped(tmp_path: Path) -> None:
    """Six trials at once, or three and then the others, with the study in a database."""
    space = "model.optimizers.generator.lr=tag(log,interval(0.0001,0.1))"
    once, twice = tmp_path / "once", tmp_path / "twice"
    result = search(once, space, "hydra.sweeper.n_trials=6")
    assert result.returncode == 0, result.stdout + result.stderr
    storage = f"hydra.sweeper.storage=sqlite:///{tmp_path}/study.db"
    for trials in (3, 6):
        result = search(twice, space, storage, f"hydra.sweeper.n_trials={trials}")
        assert result.returncode == 0, result.stdout + result.stderr
        assert len(names(twice)) == trials
    assert names(once) == names(twice)
    assert (tmp_path / "study.db").is_file()
    best = min(value(once / name) for name in names(once))
    results = [(folder / "optimization_results.yaml").read_text() for folder in (once, twice)]
    assert results[0] == results[1]
    assert f"best_value: {best}" in results[0]
    again = search(once, space, "hydra.sweeper.n_trials=6")
    assert again.returncode == 0
    assert "raise hydra.sweeper.n_trials" in again.stdout
    assert len(names(once)) == 6


@needs_optuna
def test_a_search_survives_a_trial_that_fails_and_tries_it_again(tmp_path: Path) -> None:
    space = ("model.optimizers.generator.lr=choice(0.001,-1.0,0.002)", "hydra.sweeper.n_trials=6")
    result = search(
        tmp_path, *space, "hydra.sweeper.sampler._target_=optuna.samplers.RandomSampler"
    )
    assert result.returncode == 1
    ends = {name: read_state(tmp_path / name) for name in names(tmp_path)}
    states = {name: end.state for name, end in ends.items() if end}
    assert states.pop("lr--1.0") == "failed"
    assert {*states.values()} == {"done"}
    again = search(tmp_path, *space, "hydra.sweeper.sampler._target_=optuna.samplers.RandomSampler")
    assert "lr--1.0: failed" in again.stdout


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("interval(0.1,1)", {"low": 0.1, "high": 1.0, "log": False}),
        ("tag(log,interval(1,8))", {"low": 1, "high": 8, "log": True}),
        ("range(1,6,2)", {"low": 1, "high": 5, "step": 2}),  # Hydra's have no stop
        ("range(5,1,-2)", {"low": 3, "high": 5, "step": 2}),
        ("choice([0.5,0.9],adam,1)", {"choices": ("[0.5,0.9]", "adam", "1")}),
        ("a,b", {"choices": ("a", "b")}),
    ],
)
@needs_optuna
def test_values_of_a_search(text: str, expected: dict[str, object]) -> None:
    (override,) = OverridesParser.create().parse_overrides([f"key={text}"])
    found = distribution(override)
    assert {name: getattr(found, name) for name in expected} == expected


@needs_optuna
def test_a_bad_run_of_a_search_ends_early(tmp_path: Path) -> None:
    """Two trials with better values at 16 images: the third one is worse than their median."""
    import optuna

    storage = str(tmp_path / "study.log")
    study = optuna.create_study(storage=opened(storage), study_name="s")
    for _ in range(2):
        trial = study.ask()
        trial.report(-1e9, 16)
        study.tell(trial, -1e9)
    study.ask()
    node = {"_target_": "ganzoo.runs.pruning.Pruning", "storage": storage, "study": "s",
            "number": 2, "pruner": {"_target_": "optuna.pruners.MedianPruner",
                                    "n_startup_trials": 1}}  # fmt: skip
    evaluate = "{_target_: ganzoo.callbacks.evaluation.Evaluate, suite: '${metrics}', every_kimg: "
    cfg = config(*TINY_METRICS, f"callbacks.metrics={evaluate}0.016}}", f"run_dir={tmp_path}/run")
    with open_dict(cfg):
        cfg.callbacks.pruning = node
    gan = train_config(cfg)
    assert gan.images_seen == 16
    assert (tmp_path / "run" / "done").is_file()
    tell(study, 2, JobReturn(_return_value=1.0, status=JobStatus.COMPLETED))
    assert [t.state.name for t in study.trials] == ["COMPLETE", "COMPLETE", "PRUNED"]


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        (["run_dir=somewhere", "seed=0,1"], "give sweep_dir"),
        (["hydra/sweeper=search", "seed=choice(0,1)"], "keep callbacks.metrics"),
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


@needs_optuna
@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        (["hydra.sweeper.n_trials=abc"], "n_trials must be a whole number"),
        (["hydra.sweeper.n_jobs=0"], "n_jobs must be a whole number from 1"),
        (["batch_size=8"], "A search needs values to search"),
        (
            ["hydra.sweeper.params={callbacks.evaluate.patience: 'choice(1,2)'}"],
            "is now callbacks.",
        ),
    ],
)
def test_what_cannot_be_a_search_is_refused(keys, sentence, tmp_path: Path, capsys) -> None:
    keys = ["hydra/sweeper=search", "logger=csv", f"sweep_dir={tmp_path / 'sweep'}", *keys]
    with pytest.raises(SystemExit) as stop:
        Folders().on_multirun_start(composed("train", keys, return_hydra_config=True))
    assert sentence in f"{stop.value.code} {capsys.readouterr().err}"
    assert not (tmp_path / "sweep").exists()


@needs_optuna
def test_a_search_in_the_wrong_direction_is_refused(tmp_path: Path) -> None:
    keys = ["hydra/sweeper=search", "hydra.sweeper.n_trials=1", "seed=choice(0,1)"]
    line = [sys.executable, "-m", "ganzoo.train", "-m", *SCORED, f"sweep_dir={tmp_path}"]
    for keys_, wanted in (
        (["hydra.sweeper.direction=maximize"], "minimize"),
        (["callbacks.metrics.monitor=is"], "maximize"),
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
