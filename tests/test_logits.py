"""Reals and fakes with their logits; norms of all models."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import assert_same_tensors, checkpoint, run, train_command
from makers.tiny import TINY, config
from PIL import Image, ImageDraw
from torch import Tensor

import ganzoo
from ganzoo.callbacks import logits
from ganzoo.config import make
from ganzoo.data.pixels import to_uint8
from ganzoo.engine.gan import GAN
from ganzoo.loggers.csv import read_rows
from ganzoo.pictures.fonts import font_of
from ganzoo.pictures.grids import GAP, titled_rows
from ganzoo.train import train_config as train

SMALL = [o for o in TINY if not o.startswith(("model.", "callbacks.logits", "total_kimg"))]
TWO_DOMAINS = [o for o in SMALL if not o.startswith("data")]
OFTEN = ("callbacks.logits.every_kimg=0.08",)
MODELS = {
    "dcgan": [*SMALL, "model.nz=8", "model.generator.ngf=4", "model.discriminator.ndf=4"],
    "pggan": [
        *SMALL,
        *("model=pggan", "model.generator.fmap_base=64", "model.generator.fmap_max=8"),
        *("model.growth.train_kimg=0.064", "model.growth.fade_kimg=0.064"),
        *("model.growth.batch_sizes={4:16,8:16,16:8}", "model.growth.repeats=1"),
    ],
    "cyclegan": [
        *TWO_DOMAINS,
        *("model=cyclegan", "model.generator.ngf=4", "model.generator.blocks=1"),
        *("model.discriminator.ndf=4", "model.discriminator.layers=1", "model.pool=8"),
    ],
    "biggan": [
        *SMALL,
        *("model=biggan", "model.classes=10", "model.generator.ch=4", "model.generator.nz=12"),
        *("model.generator.shared=6", "model.generator.attention=[]", "image_size=32"),
        "model.generator.widths=null",
    ],
}
LENGTH = "total_kimg=0.16"  # where a PGGAN is in the middle of a fade


@pytest.fixture(scope="module", params=MODELS)
def finished(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, list[Any]]:
    """A run of each model, and the rows of its pictures."""
    name: str = request.param
    folder = tmp_path_factory.mktemp(name)
    drawn: list[Mapping[str, tuple[Tensor, Sequence[str]]]] = []

    def draw(rows: Mapping[str, tuple[Tensor, Sequence[str]]]) -> Image.Image:
        drawn.append(rows)
        return titled_rows(rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logits, "titled_rows", draw)
        train(config(*MODELS[name], LENGTH, *OFTEN, f"run_dir={folder}", tiny=False))
    return name, folder, drawn


def test_logits_are_those_of_the_trained_discriminator(finished) -> None:
    name, folder, drawn = finished
    gan = ganzoo.load(folder)
    assert isinstance(gan, GAN)
    rows = drawn[-1]
    domains = ["A", "B"] if name == "cyclegan" else [""]
    kinds = [f"{kind} {domain}".strip() for domain in domains for kind in ("real", "fake")]
    assert list(rows) == kinds
    for domain in domains:
        real, _ = rows[f"real {domain}".strip()]
        fake, _ = rows[f"fake {domain}".strip()]
        assert len(real) == len(fake) == 8
        if domain:
            (other,) = {"A", "B"} - {domain}
            made = gan.translate(rows[f"real {other}"][0], f"{other}to{domain}", raw=True)
        else:
            made = gan.sample(range(8), raw=True)
        torch.testing.assert_close(fake, made)
    for row, (images, titles) in rows.items():
        kind, _, domain = row.partition(" ")
        if name == "biggan" and kind == "fake":
            labels = gan.labels(range(8))
            assert labels is not None
            names = [f"{label} {gan.class_names[label]}" for label in labels.tolist()]
            assert [title.split("\n")[1] for title in titles] == names
            judged = gan.logits_of(images, labels)
        elif name == "biggan":
            numbers = [int(title.split("\n")[1].split()[0]) for title in titles]
            judged = gan.logits_of(images, torch.tensor(numbers))
        elif domain:
            judged = gan.logits_of(images, domain=domain)
        else:
            judged = gan.logits_of(images)
        told = [float(title.split("\n")[0]) for title in titles]
        assert told == pytest.approx(judged.tolist(), rel=6e-3)
        assert len(set(told)) > 4, "each has its own"


def test_reals_are_training_images(finished) -> None:
    name, folder, drawn = finished
    gan = ganzoo.load(folder)
    assert gan.config is not None
    data = make(config(*MODELS[name], LENGTH, tiny=False).data)
    for domain, of in data.domains.items():
        images, _ = drawn[0][f"real {domain}".strip()]
        numbers = list(range(len(of.source)))
        theirs = {image.numpy().tobytes() for image in of.source.__getitems__(numbers)["image"]}
        assert {image.numpy().tobytes() for image in to_uint8(images)} <= theirs
        for later in drawn[1:]:
            assert torch.equal(later[f"real {domain}".strip()][0], images)


def test_a_picture_lies_there_for_each_time(finished) -> None:
    _, folder, drawn = finished
    names = sorted(path.name for path in (folder / "logits").iterdir())
    assert names == [f"000000.{at:03d}.png" for at in (0, 80, 160)]
    for rows, name in zip(drawn, names, strict=True):
        picture = np.asarray(Image.open(folder / "logits" / name))
        assert (picture == np.asarray(titled_rows(rows))).all()


def test_a_run_is_the_same_with_and_without(finished, tmp_path: Path) -> None:
    name, folder, _ = finished
    train(config(*MODELS[name], LENGTH, "callbacks.logits=null", f"run_dir={tmp_path}", tiny=False))
    assert not (tmp_path / "logits").exists()
    with_it, without = checkpoint(folder), checkpoint(tmp_path)
    assert_same_tensors(with_it["state_dict"], without["state_dict"])
    assert_same_tensors(with_it["optimizer_states"], without["optimizer_states"])
    ours, theirs = (read_rows(path / "metrics.csv") for path in (folder, tmp_path))
    for row, other in zip(ours, theirs, strict=True):
        assert {k: v for k, v in row.items() if "speed/" not in k} == {
            k: v for k, v in other.items() if "speed/" not in k
        }


def test_every_network_that_is_updated_has_its_norms(finished) -> None:
    _, folder, _ = finished
    gan = ganzoo.load(folder)
    last = read_rows(folder / "metrics.csv")[-1]
    for network in gan.turns.networks:
        squares = sum(
            float(p.detach().double().square().sum())
            for p in gan.get_submodule(network).parameters()
        )
        assert float(last[f"weight_norms/{network}"]) == pytest.approx(squares**0.5, rel=1e-5)
        assert float(last[f"gradient_norms/{network}"]) > 0
        assert float(last[f"lr/{network}"]) > 0


def test_two_processes_with_synchronized_batchnorm_do_not_wait_for_each_other(tmp_path) -> None:
    two = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "sync_batchnorm=true")
    keys = [o for o in MODELS["dcgan"] if not o.startswith("trainer")]
    command = train_command(tmp_path, *keys, *two, "total_kimg=0.032")
    command += [
        "callbacks.logits={_target_:ganzoo.callbacks.logits.LogitGrid,every_kimg:0.016,num:8}"
    ]
    result = run(command, processes=2)
    assert result.returncode == 0, result.stderr
    assert len(list((tmp_path / "logits").iterdir())) == 3


def test_a_title_stands_above_its_image() -> None:
    images = torch.linspace(-1, 1, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16)
    sheet = np.asarray(titled_rows({"real": (images, ["+0.5", "-12"]), "x": (images, ["1", "2"])}))
    font = font_of(11)
    margin = 10 + int(font.getlength("real"))
    assert sheet.shape == (2 * (16 + 64 + GAP), margin + 2 * (64 + GAP), 3)
    pixels = to_uint8(images).permute(0, 2, 3, 1).numpy()
    for column in range(2):
        left = margin + column * (64 + GAP)
        tile = sheet[16:80, left : left + 64]
        assert (tile == pixels[column].repeat(4, 0).repeat(4, 1)).all()
    blank = Image.new("RGB", (64, 16), "white")
    ImageDraw.Draw(blank).text((0, 0), "-12", fill="black", font=font)
    left = margin + 64 + GAP
    assert (sheet[:16, left : left + 64] == np.asarray(blank)).all()


def test_large_images_are_shrunk() -> None:
    sheet = titled_rows({"x": (torch.zeros(2, 1, 128, 512), ["a", "b"])})
    assert sheet.height == 16 + 32 + GAP
