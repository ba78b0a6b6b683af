"""Scenarios that have to come out alike in one process and in several.

Run by the tests, alone or under torchrun:  python worlds.py FOLDER [SCENARIO ...]
Each scenario leaves FOLDER/<scenario>-<rank>.pt.
"""

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from makers.tiny import TINY, TINY_METRICS, PlainDiscriminator, PlainGenerator, adam, config

from ganzoo.config import make
from ganzoo.data.sources.synthetic import Synthetic
from ganzoo.data.unpaired import Unpaired
from ganzoo.engine.gan import GAN
from ganzoo.loggers.csv import read_rows
from ganzoo.models.biggan import BigGAN
from ganzoo.models.biggan import Discriminator as ProjectionDiscriminator
from ganzoo.models.biggan import Generator as ClassGenerator
from ganzoo.models.cyclegan import CycleGAN, PatchDiscriminator, ResNetGenerator
from ganzoo.models.dcgan import DCGAN, Discriminator, Generator
from ganzoo.models.pggan import PGGAN
from ganzoo.models.pggan import Discriminator as GrowingDiscriminator
from ganzoo.models.pggan import Generator as GrowingGenerator
from ganzoo.nn.ada import ADA
from ganzoo.nn.augment import DiffAugment
from ganzoo.nn.losses import Wasserstein
from ganzoo.schedules.growth import Growth
from ganzoo.train import make_trainer
from ganzoo.train import train_config as train

WORLD = int(os.environ.get("WORLD_SIZE", 1))
RANK = int(os.environ.get("RANK", 0))
DDP = ("trainer=ddp", "trainer.accelerator=cpu", f"trainer.devices={WORLD}") if WORLD > 1 else ()


def fit(
    folder: Path, gan: GAN, *overrides: str, resume: bool = False, data: Any = None
) -> dict[str, Any]:
    """Train `gan` and return all that its checkpoint holds."""
    cfg = config("~callbacks.ticks", "~callbacks.grid", "~callbacks.bar", *DDP, *overrides)
    last = folder / "last.ckpt"
    trainer = make_trainer(cfg, folder, 0)
    trainer.fit(gan, datamodule=data or make(cfg.data), ckpt_path=last if resume else None)
    saved = torch.load(last, weights_only=True)
    return {k: saved[k] for k in ("state_dict", "optimizer_states")}


def plain(total_kimg: float = 0.16, eps: float = 1e-8, **options: Any) -> DCGAN:
    """No BatchNorm; two penalties, augmentation, clipping, two steps of D: all that draws."""
    torch.manual_seed(0)
    return DCGAN(
        PlainGenerator(),
        PlainDiscriminator(),
        loss=Wasserstein(),
        nz=8,
        augment=options.pop("augment", None) or DiffAugment(),
        gradient_penalty=10.0,
        r1=1.0,
        optimizers={"generator": adam(eps=eps), "discriminator": adam(eps=eps)},
        total_kimg=total_kimg,
        discriminator_steps=2,
        clip={"discriminator": 1.0},
        **options,
    )


def normalized(total_kimg: float = 0.08) -> DCGAN:
    torch.manual_seed(0)
    return DCGAN(
        Generator(16, nz=8, ngf=4),
        Discriminator(16, ndf=4),
        nz=8,
        optimizers={"generator": adam(), "discriminator": adam()},
        total_kimg=total_kimg,
    )


ALL_METRICS = (
    "metrics.scores.swd.num=24",
    "metrics.scores.swd.patches=4",
    "metrics.scores.ms_ssim=null",  # wants larger images
    "metrics.scores.is.splits=2",
)


def pggan(
    total_kimg: float = 0.32, group_size: int = 4, minibatch_kernels: int = 0, lr: float = 0.001
) -> PGGAN:
    """4x4 to 16x16 over 256 images: 64 of each, 64 to fade in the next; batches of 16, 16, 8."""
    torch.manual_seed(0)
    options = {"fmap_base": 64, "fmap_max": 8}
    return PGGAN(
        GrowingGenerator(16, **options),
        GrowingDiscriminator(
            16, group_size=group_size, minibatch_kernels=minibatch_kernels, **options
        ),
        Growth(16, 0.064, 0.064, batch_size=16, batch_sizes={16: 8}, repeats=1),
        optimizers={"generator": adam(lr), "discriminator": adam(lr)},
        total_kimg=total_kimg,
        ema_beta=0.9,
    )


def cyclegan(
    total_kimg: float = 0.08, lr: float = 2e-4, eps: float = 1e-8, **options: Any
) -> CycleGAN:
    torch.manual_seed(0)
    adam_ = partial(torch.optim.Adam, lr=lr, betas=(0.5, 0.999), eps=eps)
    return CycleGAN(
        partial(ResNetGenerator, ngf=4, blocks=1),
        partial(PatchDiscriminator, ndf=4, layers=1),
        optimizers={"generator": adam_, "discriminator": adam_},
        image_size=16,
        total_kimg=total_kimg,
        **{"ema_kimg": 0, **options},
    )


def pairs(batch_size: int = 4) -> Unpaired:
    """Windows out of 20 images of one kind and 28 of another, 16x16."""
    return Unpaired(
        partial(Synthetic, num=20, classes=0),
        partial(Synthetic, num=28, classes=3),
        image_size=16,
        channels=3,
        batch_size=batch_size,
        seed=0,
    )


def biggan(total_kimg: float = 0.16, classes: int = 3, **options: Any) -> BigGAN:
    """Two steps of D, orthogonal regularization, an average of everything from 48 images on."""
    torch.manual_seed(0)
    shape = {"image_size": 16, "classes": classes, "ch": 4, "attention": [8]}
    return BigGAN(
        ClassGenerator(nz=12, shared=8, **shape),
        ProjectionDiscriminator(**shape),
        classes,
        **{
            "orthogonal": {"generator": 1e-2},
            "optimizers": dict.fromkeys(("generator", "discriminator"), adam(0.001, eps=1e-6)),
            "total_kimg": total_kimg,
            "discriminator_steps": 2,
            "ema_beta": 0.9,
            "ema_start_kimg": 0.048,
            "ema_buffers": True,
            **options,
        },
    )


CROPPED = ("data.source.image_size=20", "data.crop=random")


def float64(folder: Path) -> Any:
    return fit(folder, plain(), "precision=64-true", *CROPPED)


def float32(folder: Path) -> Any:
    # Adam's step is g / (|g| + eps): where a gradient is as small as its rounding error, an eps
    # below both makes a whole step of it, in another direction on another kind of CPU.
    return fit(folder, plain(eps=1e-6), *CROPPED)


def accumulated(folder: Path) -> Any:
    return fit(folder, plain(accumulate=2), "precision=64-true", *CROPPED)


def adapted(folder: Path, *lengths: float, parts: int = 1, bits: int = 64) -> Any:
    """An augmentation that is steered: ten iterations, p moves at the fourth and the eighth."""
    for length in (*lengths, 0.16):
        gan = plain(length, augment=ADA(kimg=0.32, p=0.5), accumulate=parts)
        old = (folder / "last.ckpt").exists()
        result = fit(folder, gan, f"precision={bits}-true", *CROPPED, resume=old)
    return result


def adapted_straight(folder: Path) -> Any:
    return adapted(folder, bits=32)


def adapted_resumed(folder: Path) -> Any:
    """The same, stopped when the signs of five iterations have been counted, and of seven."""
    return adapted(folder, 0.08, 0.112, bits=32)


def adapted_in_parts(folder: Path) -> Any:
    return adapted(folder, parts=2)


def synced(folder: Path) -> Any:
    return fit(folder, normalized(), "precision=64-true", "sync_batchnorm=true")


def unsynced(folder: Path) -> Any:
    """BatchNorm of each process by itself: what every process holds in the end."""
    gan = normalized()
    fit(folder, gan)
    return dict(gan.state_dict())


def noise(folder: Path) -> Any:
    """The latents that this process drew in each iteration."""
    gan = plain(total_kimg=0.048)
    drawn = []
    inner = gan._fakes

    def fakes(n: int) -> Any:
        state = gan.draws._generator.get_state()
        drawn.append(gan.draws.rows(n, gan.nz))
        gan.draws._generator.set_state(state)
        return inner(n)

    gan._fakes = fakes  # type: ignore[method-assign]
    fit(folder, gan)
    return {"latents": torch.stack(drawn)}


def traffic(folder: Path) -> Any:
    """Bytes of every collective of the last iteration, and those of the two networks."""
    gan = plain(total_kimg=0.032)
    sent: list[int] = []
    inner, step = dist.all_reduce, gan.step

    def all_reduce(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        sent.append(tensor.numel() * tensor.element_size())
        return inner(tensor, *args, **kwargs)

    def counted(batch: Any) -> Any:
        sent.clear()
        losses = step(batch)
        result["sent"] = list(sent)
        return losses

    result: dict[str, Any] = {}
    dist.all_reduce, gan.step = all_reduce, counted  # type: ignore[assignment, method-assign]
    fit(folder, gan)
    dist.all_reduce = inner
    for name in ("generator", "discriminator"):
        network = gan.get_submodule(name)
        result[name] = sum(p.numel() * p.element_size() for p in network.parameters())
    return result


def straight(folder: Path) -> Any:
    return fit(folder, normalized(0.16), "data.workers=2")


def resumed(folder: Path) -> Any:
    """The same as `straight`, stopped half way."""
    fit(folder, normalized(0.08), "data.workers=2")
    return fit(folder, normalized(0.16), resume=True)


def evaluated(folder: Path) -> Any:
    """All metrics at two moments of a run."""
    options = (*TINY_METRICS, "callbacks.metrics.every_kimg=0.04", *ALL_METRICS)
    keys = [key for key in (*TINY, *options) if key != "callbacks.metrics=null"]
    cfg = config(
        *keys,
        *DDP,
        "precision=64-true",
        "sync_batchnorm=true",
        "metrics=all",
        f"run_dir={folder}",
        tiny=False,
    )
    train(cfg)
    told = json.loads((folder / "metrics.json").read_text())["evaluations"]
    return {
        f"{part}/{name}/{entry['images_seen']}": torch.tensor(value, dtype=torch.float64)
        for entry in told
        for part in ("values", "floors")
        for name, value in entry[part].items()
    }


def growing(folder: Path) -> Any:
    """PGGAN through two fades; no standard deviation over images that lie in several processes."""
    return fit(folder, pggan(group_size=0), "precision=64-true", "data.source.num=64")


def grown_straight(folder: Path) -> Any:
    return fit(folder, pggan(), "data.source.num=64")


def grown_resumed(folder: Path) -> Any:
    """The same, stopped in a fade, at the end of one, and where the batch size changes."""
    for total_kimg in (0.08, 0.16, 0.2):
        last = total_kimg != 0.08
        fit(folder, pggan(total_kimg), "data.source.num=64", resume=last)
    return fit(folder, pggan(), "data.source.num=64", resume=True)


def translating(folder: Path) -> Any:
    """CycleGAN with a pool that is full after five of twenty iterations."""
    # A bias before a normalization has a gradient of rounding errors alone: see `float32`.
    gan = cyclegan(pool=20, ema_kimg=0.02, eps=1e-6)
    return fit(folder, gan, "precision=64-true", data=pairs())


def translated_straight(folder: Path) -> Any:
    return fit(folder, cyclegan(pool=40, lr=0.01), data=pairs())


def translated_resumed(folder: Path) -> Any:
    """The same, stopped when the pool is half full and when it is full."""
    fit(folder, cyclegan(0.02, pool=40, lr=0.01), data=pairs())
    fit(folder, cyclegan(0.06, pool=40, lr=0.01), data=pairs(), resume=True)
    return fit(folder, cyclegan(pool=40, lr=0.01), data=pairs(), resume=True)


def translations(folder: Path) -> Any:
    """Scores of translations, in both directions, and accuracies, at two moments of a run."""
    cfg = config(
        *(key for key in TINY if not key.startswith(("data", "model", "callbacks.metrics=null"))),
        *TINY_METRICS,
        *DDP,
        "model=cyclegan",
        "data=emoji_unpaired",
        "model.generator.ngf=4",
        "model.generator.blocks=1",
        "model.discriminator.ndf=4",
        "model.discriminator.layers=1",
        "precision=64-true",
        "metrics.num_real=71",
        "callbacks.metrics.every_kimg=0.04",
        "+callbacks.accuracy={_target_: ganzoo.callbacks.accuracy.DiscriminatorAccuracy, "
        "every_kimg: 0.04}",
        f"run_dir={folder}",
        tiny=False,
    )
    train(cfg)
    told = json.loads((folder / "metrics.json").read_text())["evaluations"]
    values = {
        f"{part}/{name}/{entry['images_seen']}": torch.tensor(value, dtype=torch.float64)
        for entry in told
        for part in ("values", "floors")
        for name, value in entry[part].items()
    }
    rows = read_rows(folder / "metrics.csv")
    return values | {
        f"accuracy/{name}/{row['images_seen']}": torch.tensor(float(value))
        for row in rows
        for name, value in row.items()
        if name.startswith("accuracy/") and value
    }


def discriminated(folder: Path) -> Any:
    """PGGAN as minibatch discrimination starts: nothing is learned."""
    return fit(folder, pggan(0.032, 0, minibatch_kernels=6, lr=0.0), "data.source.num=64")


LABELED = ("data.source.classes=3", "sync_batchnorm=true")


def biggan_float64(folder: Path) -> Any:
    # Biases before a BatchNorm have no gradient but rounding errors: see `float32` on eps.
    optimizers = dict.fromkeys(("generator", "discriminator"), adam(0.001, eps=1e-3))
    return fit(folder, biggan(optimizers=optimizers), "precision=64-true", *LABELED)


def biggan_vectors(folder: Path) -> Any:
    """Vectors of spectral normalization where nothing averages them over processes."""
    gan = biggan()
    with patch("ganzoo.engine.gan.average_over_processes"):
        fit(folder, gan, *LABELED)
    return {name: value for name, value in gan.state_dict().items() if name.endswith(".u")}


def biggan_straight(folder: Path) -> Any:
    return fit(folder, biggan(), *LABELED)


def biggan_resumed(folder: Path) -> Any:
    """The same, stopped before and after the average begins."""
    for total_kimg in (0.032, 0.096, 0.16):
        result = fit(folder, biggan(total_kimg), *LABELED, resume=total_kimg != 0.032)
    return result


SCENARIOS = (
    growing, grown_straight, grown_resumed,
    float64, float32, accumulated, synced,
    adapted, adapted_in_parts, adapted_straight, adapted_resumed,
    unsynced, noise, traffic, straight, resumed,
)  # fmt: skip

if __name__ == "__main__":
    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    asked = sys.argv[2:] or [scenario.__name__ for scenario in SCENARIOS]
    for scenario in (globals()[name] for name in asked):
        result = scenario(out / scenario.__name__)
        torch.save(result, out / f"{scenario.__name__}-{RANK}.pt")
