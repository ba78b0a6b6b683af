"""Metrics during training and after: metrics.json, best.ckpt, the command."""

import json
import logging
import math
import os
import signal
import sys
from pathlib import Path

import pytest
import torch
import torchmetrics
from conftest import assert_same_tensors, checkpoint, run
from makers.photos import crops
from makers.tiny import TINY, TINY_METRICS, TRANSLATING, config, evaluated

import ganzoo
from ganzoo.callbacks.evaluation import Evaluate
from ganzoo.data.encoded import EncodedImages
from ganzoo.draws import normal
from ganzoo.engine.gan import GAN
from ganzoo.engine.sampling import latents_of
from ganzoo.errors import UserError
from ganzoo.loggers.csv import read_rows
from ganzoo.metrics.base import SuiteMetric
from ganzoo.metrics.frechet import FrechetDistance
from ganzoo.metrics.suite import Suite
from ganzoo.runs.folder import look
from ganzoo.runs.sweeps import objective
from ganzoo.train import train_config as train

BASE = [o for o in TINY if o != "callbacks.metrics=null"]
OFTEN = ("callbacks.metrics.every_kimg=0.024",)
SCRIPT = str(Path(__file__).parent / "makers" / "worlds.py")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANZOO_CACHE", str(tmp_path / "cache"))


def trained(run_dir: Path, *keys: str) -> GAN:
    return train(config(*BASE, *TINY_METRICS, *OFTEN, f"run_dir={run_dir}", *keys, tiny=False))


def told(run_dir: Path) -> dict:
    return json.loads((run_dir / "metrics.json").read_text())


# -- during training -------------------------------------------------------------------------------


def test_numbers_go_everywhere_with_their_protocol(tmp_path) -> None:
    trained(tmp_path)
    file = told(tmp_path)
    assert [e["images_seen"] for e in file["evaluations"]] == [24, 48, 72, 80]
    assert {e["protocol"] for e in file["evaluations"]} == set(file["protocols"])
    (protocol,) = file["protocols"].values()
    assert protocol["fake"]["seeds"] == "0-23"
    assert protocol["fake"]["generator"] == "average"
    assert protocol["real"]["images"] == 40
    assert protocol["extractor"]["name"] == "tiny"
    rows = [row for row in read_rows(tmp_path / "metrics.csv") if row["metrics/fd_tiny"]]
    for row, entry in zip(rows, file["evaluations"], strict=True):
        assert int(row["images_seen"]) == entry["images_seen"]
        for name, value in entry["values"].items():
            assert float(row[f"metrics/{name}"]) == value
        assert 0 < float(row["speed/maintenance_share"]) < 1
    log = (tmp_path / "train.log").read_text()
    assert "metrics at 0.0 kimg: fd_tiny" in log
    assert "protocol " + next(iter(file["protocols"])) in log


def test_best_is_the_best(tmp_path) -> None:
    trained(tmp_path, "callbacks.metrics.monitor=kid")
    file = told(tmp_path)
    assert file["monitor"] == "kid_tiny"
    best = min(file["evaluations"], key=lambda e: e["values"]["kid_tiny"])
    assert file["best"]["images_seen"] == best["images_seen"]
    gan = ganzoo.load(tmp_path / "best.ckpt")
    assert gan.images_seen == best["images_seen"]
    trained(tmp_path / "is", "callbacks.metrics.monitor=is_tiny")
    best = max(told(tmp_path / "is")["evaluations"], key=lambda e: e["values"]["is_tiny"])
    assert ganzoo.load(tmp_path / "is" / "best.ckpt").images_seen == best["images_seen"]


def test_metrics_do_not_change_the_run(tmp_path) -> None:
    trained(tmp_path / "with")
    trained(tmp_path / "without", "callbacks.metrics=null")
    one, other = checkpoint(tmp_path / "with"), checkpoint(tmp_path / "without")
    for part in ("state_dict", "optimizer_states"):
        assert_same_tensors(one[part], other[part])


def test_a_resumed_run_tells_what_a_straight_one_does(tmp_path) -> None:
    trained(tmp_path / "straight")
    trained(tmp_path / "resumed", "total_kimg=0.04")
    trained(tmp_path / "resumed")
    straight, resumed = (told(tmp_path / name)["evaluations"] for name in ("straight", "resumed"))
    assert [e["images_seen"] for e in resumed] == [24, 40, 48, 72, 80]  # 40 was an end
    assert [e for e in resumed if e["images_seen"] != 40] == straight


def test_an_evaluation_that_was_interrupted_is_made_up_for(tmp_path, monkeypatch) -> None:
    trained(tmp_path / "straight")
    inner = Evaluate._evaluate

    def interrupted(self, trainer, gan) -> None:
        if gan.images_seen == 48:
            os.kill(os.getpid(), signal.SIGTERM)
        inner(self, trainer, gan)

    monkeypatch.setattr(Evaluate, "_evaluate", interrupted)
    with pytest.raises(SystemExit):
        trained(tmp_path / "stopped")
    monkeypatch.undo()
    monkeypatch.setenv("GANZOO_CACHE", str(tmp_path / "cache"))
    assert [e["images_seen"] for e in told(tmp_path / "stopped")["evaluations"]] == [24]
    trained(tmp_path / "stopped")
    assert told(tmp_path / "stopped") == told(tmp_path / "straight")


def test_another_protocol_starts_the_best_anew(tmp_path) -> None:
    trained(tmp_path, "total_kimg=0.04")
    trained(tmp_path, "metrics.num_fake=20")
    file = told(tmp_path)
    assert len(file["protocols"]) == 2
    new = [e for e in file["evaluations"] if e["protocol"] == file["evaluations"][-1]["protocol"]]
    assert [e["images_seen"] for e in new] == [48, 72, 80]
    best = min(new, key=lambda e: e["values"]["fd_tiny"])
    assert file["best"]["images_seen"] == best["images_seen"]
    assert "the protocol has changed" in (tmp_path / "train.log").read_text()


def test_a_dry_run_computes_none(tmp_path) -> None:
    trained(tmp_path, "dry=true")
    assert not (tmp_path / "metrics.json").exists()
    assert not (tmp_path / "cache").exists()


def test_a_monitor_that_is_no_metric(tmp_path) -> None:
    with pytest.raises(
        UserError, match=r"No metric gives fid: .* one of fd_tiny, kid_tiny, is_tiny"
    ):
        trained(tmp_path, "callbacks.metrics.monitor=fid")


def test_metrics_are_fitted_to_few_images(tmp_path, caplog) -> None:
    """40 real images and 24 fakes: the subsets become smaller, and the protocol says so."""
    with caplog.at_level(logging.INFO):
        trained(tmp_path, "metrics.scores.kid.subset_size=30")
    assert "kid uses subset_size=24, because there are 40 real and 24 fake images" in caplog.text
    (protocol,) = told(tmp_path)["protocols"].values()
    assert protocol["metrics"]["kid"]["subset_size"] == 24


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("callbacks.metrics.monitor=psnr", "monitor=psnr is not measured"),
        ("callbacks.grid.seeds=0", r"seeds must be .* from 1"),
        ("callbacks.ticks.every_kimg=abc", "every_kimg must be a number"),
        ("metrics.scores.kid.subsets=0", r"subsets must be .* from 1"),
        ("metrics.scores.kid.subset_size=-5", r"subset_size must be .* of at least 2"),
        ("metrics.scores.is.splits=0", r"splits must be .* from 1"),
    ],
)
def test_a_dry_run_refuses_what_a_run_refuses(tmp_path, key, sentence) -> None:
    for dry in ("true", "false"):
        with pytest.raises(UserError, match=sentence):
            trained(tmp_path / dry, key, f"dry={dry}")
    assert not (tmp_path / "false" / "last.ckpt").exists()


class Forgetful(SuiteMetric):
    """The gap between the mean brightness of reals and of fakes, in states that `reset` empties."""

    higher_is_better = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(2, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, images: torch.Tensor, real: bool) -> None:
        self.sums[int(real)] += images.double().mean()

    def compute(self) -> torch.Tensor:
        return (self.sums[0] - self.sums[1]).abs()


class Plain(torchmetrics.Metric):
    """What torchmetrics asks for, and no more."""

    def update(self, images: torch.Tensor, real: bool) -> None: ...

    def compute(self) -> torch.Tensor:
        return torch.zeros(())


@pytest.mark.parametrize("kind", [Forgetful, Plain])
def test_metrics_that_would_forget_the_reals_are_refused(kind) -> None:
    with pytest.raises(UserError, match=rf"metrics\.scores\.own: {kind.__name__} must be"):
        Suite({"own": kind()})


def test_nan_is_never_the_best(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(FrechetDistance, "compute", lambda self: torch.tensor(math.nan))
    trained(tmp_path)
    assert told(tmp_path)["best"] is None
    assert not (tmp_path / "best.ckpt").exists()
    assert objective(tmp_path) is None
    run = look(tmp_path)
    assert run.problems == ()
    assert all(math.isnan(score.best) for score in run.scores)


def test_two_processes_give_the_numbers_of_one(tmp_path) -> None:
    env = {**os.environ, "GANZOO_CACHE": str(tmp_path / "cache")}
    numbers = []
    for name, processes in (("one", 1), ("two", 2)):
        command = [sys.executable, SCRIPT, str(tmp_path / name), "evaluated"]
        done = run(command, processes, env=env)
        assert done.returncode == 0, done.stderr[-3000:]
        file = torch.load(tmp_path / name / "evaluated-0.pt", weights_only=True)
        numbers.append(file)
        env["GANZOO_CACHE"] = str(tmp_path / "other")  # the second computes its own reals
    assert numbers[0].keys() == numbers[1].keys()
    assert len(numbers[0]) > 8
    for name, value in numbers[0].items():
        assert float(numbers[1][name]) == pytest.approx(float(value), rel=1e-6, abs=1e-9), name


# -- after training --------------------------------------------------------------------------------


def test_command_gives_the_number_of_the_run(tmp_path) -> None:
    trained(tmp_path)
    last = told(tmp_path)["evaluations"][-1]
    scores = evaluated(f"ckpt={tmp_path}", "metrics.batch_size=7")
    assert scores.values == pytest.approx(last["values"], rel=1e-6)
    assert scores.protocol_id == last["protocol"]
    (written,) = json.loads((tmp_path / "last.metrics.json").read_text())
    assert written["values"] == scores.values
    assert written["subject"] == {"model": "DCGAN", "images_seen": 80}
    assert written["up"] == ["is_tiny", "is_tiny_std"]
    (score,) = look(tmp_path).scores
    assert score.best == min(e["values"]["fd_tiny"] for e in told(tmp_path)["evaluations"])
    evaluated(f"ckpt={tmp_path}")
    evaluated(f"ckpt={tmp_path}", "raw=true")
    file = json.loads((tmp_path / "last.metrics.json").read_text())
    assert [e["protocol"]["fake"]["generator"] for e in file] == ["average", "raw"]
    raw = look(tmp_path).scores[1]
    assert (raw.metric, raw.best) == ("fd_tiny", file[1]["values"]["fd_tiny"])


def test_command_takes_other_data(tmp_path) -> None:
    trained(tmp_path)
    photos = tmp_path / "photos"
    photos.mkdir()
    for i, photo in enumerate(crops(40, 20, 20)):
        photo.save(photos / f"{i}.png")
    scores = evaluated(f"ckpt={tmp_path}", "data=folder", f"data.root={photos}")
    assert scores.protocol["real"]["data"] == "photos"
    assert scores.protocol["real"]["shape"] == [3, 16, 16]
    with pytest.raises(UserError, match="needs data of one domain"):
        evaluated(f"ckpt={tmp_path}", "data=emoji_unpaired")


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for k, name in enumerate(("fake", "real")):
        (tmp_path / name).mkdir()
        for i, photo in enumerate(crops(24, 32, 32, seed=k)):
            photo.save(tmp_path / name / f"{i:02d}.png")
    return tmp_path / "fake", tmp_path / "real"


def test_command_compares_folders(folders, tmp_path) -> None:
    fake, real = folders
    out = tmp_path / "out.json"
    scores = evaluated(f"fake={fake}", f"real={real}", f"out={out}")
    assert scores.values["fd_tiny"] > 0
    assert json.loads(out.read_text())[0]["protocol"]["real"]["shape"] == [3, 32, 32]
    (tmp_path / "mine.json").write_text('{"diary": 1}')
    with pytest.raises(UserError, match="not a file of scores"):
        evaluated(f"fake={fake}", f"real={real}", f"out={tmp_path / 'mine.json'}")
    same = evaluated(f"fake={real}", f"real={real}", f"out={out}")
    assert same.values["fd_tiny"] == pytest.approx(0, abs=1e-6)
    assert len(json.loads(out.read_text())) == 2
    smaller = evaluated(f"fake={fake}", f"real={real}", "image_size=[16,32]")
    assert smaller.protocol["real"]["shape"] == [3, 16, 32]


def test_folders_that_cannot_be_compared(folders, tmp_path) -> None:
    fake, real = folders
    with pytest.raises(UserError, match="Give either ckpt"):
        evaluated()
    with pytest.raises(UserError, match="Give real=FOLDER"):
        evaluated(f"fake={fake}")
    with pytest.raises(UserError, match="not a file or folder"):
        evaluated(f"fake={fake}", "real=/nowhere")
    with pytest.raises(UserError, match="There is no checkpoint"):
        evaluated("ckpt=/nowhere")
    crops(1, 33, 32)[0].save(real / "other.png")
    sizes = r"different sizes \(32x32, 32x33\): give image_size"
    with pytest.raises(UserError, match=sizes):
        evaluated(f"fake={fake}", f"real={real}")
    (fake / "00.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"1 images in .* cannot be read \(00.png"):
        evaluated(f"fake={fake}", f"real={real}")


def test_command_says_what_is_wrong_in_a_line(tmp_path) -> None:
    done = run([sys.executable, "-m", "ganzoo.evaluate", "ckpt=/nowhere"], cwd=tmp_path)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ganzoo.evaluate: There is no checkpoint at /nowhere")
    assert list(tmp_path.iterdir()) == [] or {p.name for p in tmp_path.iterdir()} == {"cache"}


def test_data_of_a_strange_checkpoint_are_not_called(tmp_path) -> None:
    trained(tmp_path)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    saved["ganzoo"]["config"]["data"]["source"] = {"_target_": "os.system", "command": "false"}
    torch.save(saved, tmp_path / "bad.ckpt")
    with pytest.raises(UserError, match=r"wants to call os.system"):
        evaluated(f"ckpt={tmp_path / 'bad.ckpt'}")


def test_default_run_without_weights_says_what_it_uses(tmp_path, monkeypatch, caplog) -> None:
    """All defaults but for the numbers of images: the network that comes along, on the emoji."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    few = ("metrics.num_real=12", "metrics.num_fake=8", "metrics.scores.kid.subset_size=4")
    keys = [o for o in BASE if not o.startswith(("data", "callbacks.accuracy"))]
    with caplog.at_level(logging.INFO):
        train(config(*keys, *few, f"run_dir={tmp_path / 'run'}", "image_size=32", tiny=False))
    assert "no FID without the weights of Inception" in caplog.text
    assert "python -m ganzoo.prepare weights inception" in caplog.text
    file = told(tmp_path / "run")
    assert file["monitor"] == "fd_effnet"
    assert set(file["evaluations"][0]["values"]) == {
        "fd_effnet", "kid_effnet", "kid_effnet_std", "is_effnet", "is_effnet_std",
    }  # fmt: skip
    assert "best.ckpt: fd_effnet" in caplog.text
    assert ganzoo.load(tmp_path / "run" / "best.ckpt").images_seen == file["best"]["images_seen"]


def test_the_command_compares_folders(folders, tmp_path) -> None:
    """As a process: in one, Hydra is already there when the images are looked up."""
    fake, real = folders
    out = tmp_path / "out.json"
    keys = ("metrics=quick", *TINY_METRICS, f"out={out}", "metrics.num_fake=12")
    command = [sys.executable, "-m", "ganzoo.evaluate", f"fake={fake}", f"real={real}", *keys]
    done = run(command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "12 of the 24 images" in done.stdout
    assert json.loads(out.read_text())[0]["protocol"]["fake"]["images"] == 12


def test_few_fakes_are_spread_over_their_folder(folders, tmp_path, monkeypatch) -> None:
    """Classes lie in folders, so the first images by name are all of one class."""
    fake, real = folders
    asked = []
    inner = EncodedImages.__getitems__

    def seen(self, indices):
        asked.extend((self.name, i) for i in indices)
        return inner(self, indices)

    monkeypatch.setattr(EncodedImages, "__getitems__", seen)
    evaluated(f"fake={fake}", f"real={real}", "metrics.num_fake=12", f"out={tmp_path / 'o.json'}")
    assert {i for name, i in asked if name == "fake"} == set(range(0, 24, 2))


def test_scores_are_only_written_to_regular_files(folders, tmp_path) -> None:
    fake, real = folders
    os.mkfifo(tmp_path / "pipe")
    for out in (tmp_path / "pipe", tmp_path, tmp_path / "nowhere" / "out.json"):
        with pytest.raises(UserError, match="is not a regular file"):
            evaluated(f"fake={fake}", f"real={real}", f"out={out}")
    assert (tmp_path / "pipe").is_fifo()
    (tmp_path / "link.json").symlink_to(tmp_path / "scores.json")
    evaluated(f"fake={fake}", f"real={real}", f"out={tmp_path / 'link.json'}")
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "scores.json").read_text())


def test_truncations_that_cannot_be(tmp_path) -> None:
    """Before the first image, and not by drawing forever."""
    for value in (0, -1):
        with pytest.raises(UserError, match="above 0"):
            trained(tmp_path, f"callbacks.metrics.truncation={value}")
    with pytest.raises(UserError, match=r"at least 0\.01"):
        latents_of([0], 8, normal, 1e-9)
    truncated = (*TRANSLATING, "callbacks.metrics.truncation=0.5", f"run_dir={tmp_path}")
    with pytest.raises(UserError, match="no latents to truncate"):
        train(config(*truncated, tiny=False))
    assert not (tmp_path / "metrics.csv").exists()
