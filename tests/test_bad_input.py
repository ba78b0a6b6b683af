"""Whatever the user gets wrong is told in one sentence, and nothing that was reached is lost."""

import errno
import os
import re
import resource
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import checkpoint, run, tensors, train_command
from makers.tiny import QUIET, TINY, config
from omegaconf import DictConfig
from PIL import Image

import ganzoo
from ganzoo.config import make
from ganzoo.data.stream import Stream
from ganzoo.engine.precision import choose_precision
from ganzoo.engine.report import Report
from ganzoo.engine.saving import check_room
from ganzoo.errors import UserError
from ganzoo.models.dcgan import DCGAN
from ganzoo.train import train_config as train


def is_a_sentence(message: str) -> bool:
    return "\n" not in message and "Traceback" not in message and message.endswith(".")


def tiny(*overrides: str) -> DictConfig:
    """`config`, also for data that have no `num`."""
    folder = any(override == "data=folder" for override in overrides)
    base = [o for o in TINY if not (folder and o.startswith("data"))]
    return config(*base, *QUIET, *overrides, tiny=False)


def refused(folder: Path, *overrides: str) -> str:
    """The sentence with which a run is refused."""
    with pytest.raises(UserError) as told:
        train(tiny(f"run_dir={folder}", *overrides))
    assert is_a_sentence(str(told.value)), told.value
    return str(told.value)


# -- the command: an exit code and a sentence -----------------------------------------------------


@pytest.mark.parametrize(
    ("override", "says"),
    [  # of Hydra's messages some have several lines
        ("modle.nz=3", "modle"),
        ("model.generator.nfg=3", "nfg"),
        ("model=dcgann", "dcgann"),
        ("+model.generator.nfg=3", "nfg"),
        ("data.source.num=0", "data.source.num"),
        ("image_size=17", "16x16"),
        ("precision=16-mixed", "bf16-mixed"),
    ],
)
def test_the_command_fails_with_a_sentence(
    override: str, says: str, tmp_path: Path, train_main
) -> None:
    code, output = train_main(tmp_path / "run", override)
    assert code == 1
    assert says in output
    assert "Traceback" not in output
    assert len(output.strip().splitlines()) <= 16
    assert not (tmp_path / "run" / "last.ckpt").exists()


def test_the_command_succeeds_without_mistakes(tmp_path: Path, train_main) -> None:
    code, output = train_main(tmp_path / "run", "total_kimg=0.016")
    assert code in (0, None)
    assert "done: " in output


def test_a_file_in_place_of_the_run_folder(tmp_path: Path, train_main) -> None:
    (tmp_path / "run").write_text("mine")
    code, output = train_main(tmp_path / "run")
    assert code == 1
    assert (tmp_path / "run").read_text() == "mine"
    assert "Traceback" not in output
    assert "run_dir" in output


def test_a_file_in_place_of_the_run_folder_from_python(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    assert "cannot be written to" in refused(tmp_path / "run")
    assert "cannot be written to" in refused(tmp_path / "run" / "below")
    assert (tmp_path / "run").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_not_ours(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "cannot be written to" in refused(tmp_path / "run")


def test_a_batch_that_does_not_divide_ends_all_processes(tmp_path: Path) -> None:
    two = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "batch_size=7")
    result = run(train_command(tmp_path / "run", *two))
    output = result.stdout + result.stderr
    assert result.returncode == 1, output
    assert "A batch of 7 images cannot be shared equally by 2 device(s)" in output
    assert "Traceback" not in output
    assert output.count("A batch of 7") <= 2, "at most once a process"


# -- what can be seen before the first iteration --------------------------------------------------


def test_penalties_refuse_batchnorm(tmp_path: Path) -> None:
    for override in ("loss=wasserstein_gp", "loss=relativistic", "model.r1=1", "model.r2=1"):
        assert "set model.discriminator.norm to" in refused(tmp_path, override)
    make(config("model.r1=1", "model.discriminator.norm=layer").model)


def test_precision(tmp_path: Path) -> None:
    assert "precision must be one of" in refused(tmp_path, "precision=16-mixed")
    assert choose_precision("64-true", False)[0] == "64-true"
    assert choose_precision("auto", False)[0] in ("32-true", "bf16-mixed")


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    told = refused(tmp_path / "run", "data=folder", f"data.root={tmp_path}/none")
    assert "There is no folder" in told
    assert "data.root" in told


def test_a_disk_without_room(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=3 * 2**20))
    check_room(tmp_path, 2**20)
    with pytest.raises(UserError, match="3 MiB left, two checkpoints need 4 MiB"):
        check_room(tmp_path, 2 * 2**20)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    assert "free some space" in refused(tmp_path / "run")


def test_memory_that_does_not_suffice(tmp_path: Path, monkeypatch) -> None:
    def step(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nand so on")

    monkeypatch.setattr(DCGAN, "step", step)
    assert "model.accumulate=2" in refused(tmp_path)


# -- what breaks on the way -----------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), np.uint8)
    for i, pixels in enumerate(noise):
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    return folder


def of_folder(photos: Path) -> tuple[str, ...]:
    return ("data=folder", f"data.root={photos}", "data.mirror=false", "data.workers=0")


def test_a_file_that_is_no_image_is_found_at_the_start(photos: Path, tmp_path: Path) -> None:
    (photos / "17.png").write_bytes(b"not an image")
    told = refused(tmp_path / "run", "data=folder", f"data.root={photos}")
    assert "17.png" in told
    assert not (tmp_path / "run" / "last.ckpt").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_ends_the_run_and_loses_nothing(
    photos: Path, tmp_path: Path, workers: int
) -> None:
    place = 36  # in the fifth batch of eight
    bad = photos / f"{Stream(40, 8, 0).order(0)[place]:02d}.png"
    whole = bad.read_bytes()
    bad.write_bytes(whole[: len(whole) // 2])  # its header is good
    of_photos = (*of_folder(photos), f"data.workers={workers}", "callbacks.save.every_kimg=1")
    told = refused(tmp_path / "run", *of_photos)
    assert str(bad) in told
    saved = checkpoint(tmp_path / "run")["ganzoo"]["images_seen"]
    assert saved in (24, 32), "all iterations before the bad one, but for one read ahead"
    assert not (tmp_path / "run" / "done").exists()

    bad.write_bytes(whole)
    assert "images have changed" in refused(tmp_path / "run", *of_photos)
    train(tiny(f"run_dir={tmp_path / 'run'}", *of_photos, "data.accept_changed=true"))
    assert checkpoint(tmp_path / "run")["ganzoo"]["images_seen"] == 80


def not_at_first(images_seen: int) -> float:
    return float(images_seen > 0)


BLOWS_UP = (
    "model.optimizers.discriminator.lr=1e30",
    f"model.lr_factors={{discriminator: {{_target_: {__name__}.not_at_first, _partial_: true}}}}",
    "callbacks.save.every_kimg=0.008",
)


def test_a_number_that_is_none_is_named(tmp_path: Path) -> None:
    told = refused(tmp_path, *BLOWS_UP)
    assert any(name in told for name in ("d_loss became", "logits/", "gradient_norms/"))
    assert "after 8 images" in told
    assert f"Last good checkpoint: {tmp_path / 'last.ckpt'} (8 images)" in told


def test_a_broken_state_is_not_saved(tmp_path: Path) -> None:
    refused(tmp_path, *BLOWS_UP)
    saved = checkpoint(tmp_path)
    assert saved["ganzoo"]["images_seen"] == 8
    for name, value in tensors(saved["state_dict"]).items():
        assert value.isfinite().all(), name


def test_a_broken_state_is_not_saved_when_found_late(tmp_path: Path, monkeypatch) -> None:
    """Also where numbers are looked at late, as on a GPU."""
    inner = DCGAN.step

    def step(self: DCGAN, batch: dict) -> dict:
        losses = inner(self, batch)
        return losses if self.images_seen < 24 else {**losses, "g_loss": losses["g_loss"] / 0}

    monkeypatch.setattr(DCGAN, "step", step)
    monkeypatch.setattr(Report, "should_check", lambda self, device: False)
    told = refused(tmp_path, "callbacks.save.every_kimg=0.016")
    assert re.search(r"g_loss became inf after (24|32) images", told)
    assert checkpoint(tmp_path)["ganzoo"]["images_seen"] == 16


@pytest.fixture
def half_way(tmp_path: Path) -> Path:
    train(tiny(f"run_dir={tmp_path}", "total_kimg=0.04"))
    return tmp_path


def small_files() -> None:
    """From here on no file of this process may grow beyond 8 kB, as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(half_way: Path) -> None:
    before = (half_way / "last.ckpt").read_bytes()
    assert len(before) > 8192
    # in a process of its own: the limit would hold for what pytest writes, too
    ended = run(train_command(half_way, "callbacks.save.every_kimg=0.016"), preexec_fn=small_files)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stdout + ended.stderr
    assert "could not be written" in ended.stderr
    assert "checkpoint is unchanged" in ended.stderr
    assert (half_way / "last.ckpt").read_bytes() == before
    assert not (half_way / "last.ckpt.partial").exists()
    assert not (half_way / "done").exists()
    assert ganzoo.load(half_way).images_seen == 40


def test_a_full_disk_is_called_full(half_way: Path, monkeypatch) -> None:
    def save(contents: object, file) -> None:
        file.write(b"half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(torch, "save", save)
    assert "the disk is full" in refused(half_way)
    monkeypatch.undo()
    assert ganzoo.load(half_way).images_seen == 40
    train(tiny(f"run_dir={half_way}"))
    assert ganzoo.load(half_way).images_seen == 80


# -- a run folder that holds something else -------------------------------------------------------


def test_another_run_in_the_folder_is_named_and_kept(half_way: Path) -> None:
    before = {path.name: path.read_bytes() for path in half_way.iterdir() if path.is_file()}
    told = refused(half_way, "model.generator.ngf=8", "batch_size=4", "seed=3", "tf32=false")
    assert "model.generator.ngf (4 there, 8 now)" in told or "and" in told
    assert "batch_size (8 there, 4 now)" in told
    assert "another run_dir" in told
    told = refused(half_way, "model.generator.ngf=8")
    assert "another config: model.generator.ngf (4 there, 8 now). Give" in told
    after = {path.name: path.read_bytes() for path in half_way.iterdir() if path.is_file()}
    del before["train.log"], after["train.log"]
    assert after == before


def test_what_may_change_does(half_way: Path) -> None:
    changed = ("data.workers=1", "total_kimg=0.048", "callbacks.save.every_kimg=0.008")
    assert train(config(f"run_dir={half_way}", *changed)).images_seen == 48


@pytest.mark.parametrize("contents", [b"", b"nonsense", b"PK\x03\x04 half"])
def test_a_damaged_checkpoint_is_not_overwritten(tmp_path: Path, contents: bytes) -> None:
    (tmp_path / "last.ckpt").write_bytes(contents)
    assert "damaged" in refused(tmp_path)
    assert (tmp_path / "last.ckpt").read_bytes() == contents
