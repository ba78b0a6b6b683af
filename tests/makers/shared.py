"""Checkpoints of one untrained model of each kind, tiny, with an average that differs."""

from pathlib import Path
from typing import Any

import torch
from makers.tiny import config
from omegaconf import DictConfig

from ganzoo import export
from ganzoo.config import make, resolved
from ganzoo.engine.checkpoint import AtomicCheckpointIO
from ganzoo.engine.gan import GAN
from ganzoo.sharing import artifacts

BASE = (
    "trainer=cpu",
    "logger=none",
    "callbacks.metrics=null",
    "image_size=16",
    "sweep_dir=unused",
)
PGGAN = [
    f"model.{network}.fmap_{key}={value}"
    for network in ("generator", "discriminator")
    for key, value in (("base", 64), ("max", 8))
]
KINDS = {
    "dcgan": (
        "data=synthetic", "model=dcgan", "model.nz=8", "model.generator.ngf=4",
        "model.discriminator.ndf=4", "model.prior.path=ganzoo.draws.uniform",
    ),
    "pggan": ("data=synthetic", "model=pggan", *PGGAN),
    "cyclegan": (
        "data=emoji_unpaired", "model=cyclegan", "model.generator.ngf=4",
        "model.generator.blocks=1", "model.discriminator.ndf=4", "model.pool=4",
    ),
    "biggan": (
        "data=synthetic", "model=biggan", "model.generator.ch=4", "model.discriminator.ch=4",
        "model.generator.nz=12", "model.generator.shared=4", "model.generator.attention=[8]",
    ),
    "biggan_deep": (
        "data=synthetic", "model=biggan_deep", "model.generator.ch=8", "model.discriminator.ch=8",
        "model.generator.nz=4", "model.generator.shared=4", "model.generator.attention=[8]",
    ),
}  # fmt: skip


def configured(kind: str, *overrides: str) -> DictConfig:
    """The config of a kind."""
    return config(*BASE, *KINDS[kind], "model.ema_kimg=1", *overrides, tiny=False)


def data(kind: str, *overrides: str) -> Any:
    """The data of a kind."""
    return make(configured(kind, *overrides).data)


def untrained(kind: str, *overrides: str) -> GAN:
    """A model of a kind with an average of its own and with used statistics."""
    torch.manual_seed(0)
    cfg = configured(kind, *overrides)
    gan: GAN = make(cfg.model)
    gan.config, gan.images_seen = resolved(cfg), 10**6
    assert gan.average is not None
    for tensor in gan.average.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(0.05 * torch.rand_like(tensor))
    return gan.eval()


def write(path: Path, kind: str, *overrides: str) -> None:
    """Write the checkpoint of such a model."""
    save(untrained(kind, *overrides), path)


def save(gan: GAN, path: Path) -> None:
    """Write a checkpoint of a model."""
    contents: dict[str, Any] = {"state_dict": gan.state_dict()}
    gan.on_save_checkpoint(contents)
    AtomicCheckpointIO().save_checkpoint(contents, path)


# Of someone who tells nobody where the photos are; the model is the same.
PRIVATE = {
    "dcgan": ("data=folder", "data.root=/alice-folder/secret photos", "logger=wandb",
              "+logger.entity=alice-folder", "callbacks.grid=null", "run_dir=/alice-folder/runs"),
}  # fmt: skip


def graphs(folder: Path, kind: str) -> Path:
    """A run in `folder`, exported with all graphs that tests read; returns the export."""
    options = ["--directions", "AtoB"] if kind == "cyclegan" else []
    options += ["--pt2"] if kind != "biggan_deep" else []
    options += ["--onnx"] if "onnxruntime" in artifacts.versions() else []
    return exported(folder, kind, *options, overrides=PRIVATE.get(kind, ()))


def exported(folder: Path, kind: str, *options: str, overrides: tuple[str, ...] = ()) -> Path:
    """The folder that `python -m ganzoo.export` writes for the checkpoint `last.ckpt` there."""
    write(folder / "last.ckpt", kind, *overrides)
    export.main([str(folder), str(folder / "shared" / kind), *options])
    return folder / "shared" / kind
