"""Configs and networks small enough to train in a test."""

import os
from hashlib import sha256
from pathlib import Path
from time import sleep
from typing import Any

import lightning as L
import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig
from torch import Tensor, nn

from ganzoo import evaluate
from ganzoo.config import CONF
from ganzoo.data import choosing  # noqa: F401  defines ${classes:...}
from ganzoo.data.sources.synthetic import Synthetic
from ganzoo.engine.gan import GAN
from ganzoo.metrics.extractors import Extractor
from ganzoo.metrics.protocol import Scores

TINY = (
    "data=synthetic",
    "data.source.num=40",
    "logger=csv",
    "trainer=cpu",
    "image_size=16",
    "batch_size=8",
    "total_kimg=0.08",
    "model.nz=8",
    "model.generator.ngf=4",
    "model.discriminator.ndf=4",
    "callbacks.ticks.every_kimg=0.04",
    "callbacks.grid.every_kimg=0.04",
    "callbacks.grid.seeds=4",
    "callbacks.save.every_kimg=0.04",
    "callbacks.logits=null",
    "callbacks.metrics=null",
    "callbacks.accuracy=null",
    "callbacks.spectra=null",
    "callbacks.sentinel=null",
    "callbacks.page=null",
)

PAGE = "callbacks.page={_target_: ganzoo.callbacks.page.Page, every_kimg: 0.04}"  # not in TINY
QUIET = ("~callbacks.ticks", "~callbacks.grid", "~callbacks.bar")  # overrides TINY

# Metrics that take no time; a module of its own, since configs name it.
TINY_METRICS = (
    "metrics.network._target_=makers.tiny.TinyExtractor",
    "metrics.num_real=40",
    "metrics.num_fake=24",
    "metrics.batch_size=5",
    "metrics.scores.kid.subset_size=10",
    "metrics.scores.kid.subsets=4",
)


# A model that translates, with metrics and pictures.
TRANSLATING = (
    "model=cyclegan", "data=emoji_unpaired", "image_size=16", "batch_size=4", "total_kimg=0.048",
    "model.generator.ngf=4", "model.generator.blocks=1", "model.discriminator.ndf=4",
    "model.discriminator.layers=1", "model.pool=8", "logger=csv", "trainer=cpu",
    "callbacks.metrics.every_kimg=0.016", "callbacks.grid.every_kimg=0.024",
    "callbacks.grid.images=3", "callbacks.accuracy.every_kimg=0.024", "callbacks.accuracy.num=20",
    *TINY_METRICS,
)  # fmt: skip


def config(*overrides: str, tiny: bool = True) -> DictConfig:
    """The config of `python -m ganzoo.train OVERRIDES`, of a tiny run unless said otherwise."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", [*(TINY if tiny else ()), "run_dir=unused", *overrides])


def evaluated(*keys: str, tiny: bool = True) -> Scores:
    """What `python -m ganzoo.evaluate` does, with the tiny metrics unless said otherwise."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("evaluate", [*(("metrics=quick", *TINY_METRICS) if tiny else ()), *keys])
    return evaluate.evaluate(cfg)


def attached(gan: GAN) -> GAN:
    """A GAN in a Trainer that does nothing by itself, for calling `training_step` by hand."""
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(gan)
    gan.trainer = trainer
    trainer.strategy.optimizers = gan.configure_optimizers()
    return gan


class PlainGenerator(nn.Module):
    """z -> images of 16x16 without BatchNorm, so that samples do not depend on each other."""

    def __init__(self, nz: int = 8) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(nz, 64), nn.LeakyReLU(0.2), nn.Linear(64, 3 * 256), nn.Tanh()
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z).unflatten(1, (3, 16, 16))


class PlainDiscriminator(nn.Module):
    """Images of 16x16 -> logits, without BatchNorm and smooth, so that penalties are, too."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 4, 2, 1), nn.Softplus(), nn.Flatten(), nn.Linear(8 * 64, 1)
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).squeeze(1)


class TinyExtractor(Extractor):
    """Six features and five logits of an image of any size, by random weights."""

    name, num_features, resize = "tiny", 6, "none"

    def __init__(self, seed: int = 0, weights: None = None, precision: str = "float32") -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = nn.Sequential(nn.Conv2d(3, 6, 4, 2), nn.Tanh())
            classifier = nn.Linear(6, 5)
        super().__init__(network, classifier, f"{seed:064x}", precision)

    def prepared(self, images: Tensor) -> Tensor:
        return images / 127.5 - 1


def adam(lr: float = 0.01, eps: float = 1e-8) -> Any:
    return lambda parameters: torch.optim.Adam(parameters, lr=lr, betas=(0.5, 0.99), eps=eps)


class Seen(Callback):
    """`seen-<rank>.txt`: the images that a process was shown, in hexadecimal, a batch a line."""

    def on_train_batch_end(self, trainer: Any, gan: Any, outputs: Any, batch: Any, *_: Any) -> None:
        digests = [sha256(image.numpy().tobytes()).hexdigest() for image in batch["image"]]
        path = Path(trainer.default_root_dir) / f"seen-{trainer.global_rank}.txt"
        with path.open("a") as file:
            file.write(" ".join(digests) + "\n")


class Unpacked(Synthetic):
    """Images that are there once a folder holds `done`; two that make it at once fail."""

    def __init__(self, folder: str, **options: Any) -> None:
        super().__init__(**options)
        self.folder = Path(folder)

    def prepare(self) -> None:
        if (self.folder / "done").exists():
            return
        self.folder.mkdir(parents=True)
        sleep(0.3)
        (self.folder / "done").write_text(os.environ.get("SLURM_PROCID", ""))

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        assert (self.folder / "done").exists()
        return super().__getitems__(indices)
