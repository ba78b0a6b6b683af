"""What is watched beside the losses."""

from pathlib import Path

import pytest
import torch
from makers.memorizer import Memorizer
from makers.photos import write_crops
from makers.tiny import TINY, config
from torch import nn

from ganzoo.config import make
from ganzoo.engine.gan import GAN
from ganzoo.loggers.csv import read_rows
from ganzoo.models.dcgan import Discriminator
from ganzoo.train import train_config as train

BASE = [o for o in TINY if not o.startswith(("data", "callbacks.accuracy"))]


def trained(run_dir: Path, *keys: str, discriminator: str | None = None) -> list[dict[str, float]]:
    """Two iterations of a tiny DCGAN; the accuracies logged after each."""
    often = ("total_kimg=0.016", "callbacks.accuracy.every_kimg=0.008", "callbacks.accuracy.num=20")
    cfg = config(*BASE, *often, f"run_dir={run_dir}", "data.workers=0", *keys, tiny=False)
    if discriminator:
        cfg.model.discriminator = {"_target_": discriminator}
    train(cfg)
    rows = [row for row in read_rows(run_dir / "metrics.csv") if row.get("accuracy/training")]
    return [
        {k.partition("/")[2]: float(v) for k, v in row.items() if k.startswith("accuracy/") and v}
        for row in rows
    ]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_crops(tmp_path / "photos")


def test_a_discriminator_that_memorized_images_is_found_out(photos, tmp_path) -> None:
    keys = ("data=folder", f"data.root={photos}", "data.source.held_out=0.5")
    source = make(config(*BASE, *keys, tiny=False).data).source
    assert len(source) == 12
    Memorizer.known = source.__getitems__(list(range(12)))["image"]
    told = trained(tmp_path / "run", *keys, discriminator="makers.memorizer.Memorizer")
    assert told == 2 * [{"training": 1, "held_out": 0, "fakes": 1}]


def test_without_a_held_out_set_it_says_so(photos, tmp_path) -> None:
    told = trained(tmp_path / "run", "data=folder", f"data.root={photos}")
    assert [set(row) for row in told] == 2 * [{"training", "fakes"}]
    log = (tmp_path / "run" / "train.log").read_text()
    assert "accuracy: only on training images and fakes. " in log


@pytest.mark.parametrize("loss", ["least_squares", "wasserstein_gp", "relativistic"])
def test_shares_are_shares_with_any_loss(loss, tmp_path) -> None:
    keys = ("data=emoji", f"loss={loss}", "model.discriminator.norm=layer")
    for row in trained(tmp_path / "run", *keys):
        assert row.keys() == {"training", "held_out", "fakes"}
        assert all(0 <= share <= 1 for share in row.values())


def test_batchnorm_uses_the_statistics_of_the_images_in_question() -> None:
    gan: GAN = make(config().model)
    images = torch.rand(16, 3, 16, 16) * 2 - 1
    expected = gan.discriminator.train()(images)
    for module in gan.discriminator.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean += 3
    gan.discriminator.eval()
    assert torch.allclose(gan.logits_of(images), expected.detach(), atol=1e-6)


def test_asking_the_discriminator_does_not_change_it() -> None:
    gan: GAN = make(config().model)
    assert isinstance(gan.discriminator, Discriminator)
    gan.train()
    before = {k: v.clone() for k, v in gan.discriminator.state_dict().items()}
    logits = gan.logits_of(torch.rand(4, 3, 16, 16) * 2 - 1)
    assert logits.shape == (4,)
    assert gan.discriminator.training
    for key, value in gan.discriminator.state_dict().items():
        assert torch.equal(value, before[key])
