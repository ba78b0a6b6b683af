"""Floating-point operations of one iteration: ours, another project's, and the least possible.

torch's formulas add up convolutions and matrix products, which are all but a few percent of the
work, at small sizes on the CPU: counts are exact, and the same on every machine. Ours is an
iteration of a recipe under the Trainer of a run; other projects' own steps are read from checkouts,
as in the other benchmarks. The least follows from what a network costs:

    F   a forward pass; A of it in the first layers, whose inputs are images or latents, and Z in
        the last one
    W   the gradient of all weights: F again
    I   the gradient of all layers' inputs: F again; F - A without the inputs of the first layers

To train a network on a batch takes T = 3F - A; to pass a gradient on takes P = 2F. With G for the
generator and D for the discriminator, an iteration takes at least:

    DCGAN     T(G) + 2 T(D) + P(D)                        fakes are made once, for both steps
    PGGAN     F(G) + 2 T(D) + penalty + T(G) + P(D)       the generator's step has new fakes
    BigGAN    4 (F(G) + 2 T(D)) + T(G) + P(D)             four steps of the discriminator
    CycleGAN  4 T(G) + 2 (T(G) + A(G)) + 2 P(D) + 4 T(D)  fakes, identities; cycles; two domains

A penalty is a function of the gradient with respect to images: F and I. Its own gradient runs back
through both. Through I, that is as much as a forward pass, F - Z (the last layer's gradient is a
constant), and W. Through the forward pass there is nothing, because the derivatives of layers and
leaky ReLUs are constants, except below PGGAN's standard deviation of the minibatch, whose
derivative is not. WGAN-GP's images are mixtures and need a forward pass of their own; R1 and R2
see the reals and fakes of the loss, and can share its forward pass:

    WGAN-GP   4F - Z, and T - F of the layers before the standard deviation, if there is one
    R1, R2    3F - Z each

A relativistic loss compares fakes with reals in the generator's step, too: F(D) more, because the
discriminator has changed since it saw the reals.

See `benchmarks/README.md`.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import cyclegan
import engine
import lightning as L
import torch
from biggan import official_step
from cyclegan import discs
from hydra import compose, initialize_config_dir
from lightning.pytorch.callbacks import Callback
from pggan import zoo_step
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from ganzoo.config import CONF, make
from ganzoo.data import choosing  # noqa: F401  defines ${classes:...}
from ganzoo.data.unpaired import Unpaired
from ganzoo.engine.gan import GAN
from ganzoo.train import make_trainer

Step = Callable[[], Any]


class Cost(NamedTuple):
    """Operations of one pass of a network: all layers, the first, the last, the last few."""

    forward: int
    first: int
    last: int = 0
    behind: int = 0  # the standard deviation of the minibatch

    @property
    def trained(self) -> int:
        return 3 * self.forward - self.first

    @property
    def passed(self) -> int:
        return 2 * self.forward

    @property
    def shared_penalty(self) -> int:
        return 3 * self.forward - self.last

    @property
    def mixed_penalty(self) -> int:
        curved = 2 * (self.forward - self.behind) - self.first if self.behind else 0
        return 4 * self.forward - self.last + curved


class Flops(TorchDispatchMode):
    """Adds up operations by torch's formulas.

    `FlopCounterMode` also follows modules, and therefore refuses `torch.autograd.grad` with respect
    to the input of one, as penalties need it.
    """

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if formula := flop_registry.get(func.overloadpacket):
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


def counted(step: Step) -> int:
    with Flops() as flops:
        step()
    return flops.total


def cost(
    network: nn.Module, *inputs: Any, first: list[str], last: str = "", behind: tuple[str, ...] = ()
) -> Cost:
    """What a forward pass costs; `first`, `last` and `behind` are names of its modules."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(*inputs)
    root = type(network).__name__
    counts = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}

    def of(*names: str) -> int:
        return sum(counts[f"{root}.{name}"] for name in names)

    return Cost(counter.get_total_flops(), of(*first), of(last) if last else 0, of(*behind))


# -- ours -----------------------------------------------------------------------------------------


class Counter(Callback):
    """Counts the first iteration of a Trainer, and ends it."""

    def on_train_batch_start(self, *_: Any) -> None:
        self.counting = Flops()
        self.counting.__enter__()

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.counting.__exit__(None, None, None)
        trainer.should_stop = True


def ours(*keys: str, data: L.LightningDataModule | None = None) -> tuple[int, Any]:
    """Operations of one iteration of a recipe, and its model."""
    counter = Counter()
    gan = begin(counter, *keys, data=data)
    return counter.counting.total, gan


def begin(watcher: Callback, *keys: str, data: L.LightningDataModule | None = None) -> GAN:
    """Train a recipe until its only callback ends it; returns the model."""
    with initialize_config_dir(str(CONF), version_base="1.3"), TemporaryDirectory() as folder:
        cfg = compose("train", [*keys, "logger=none", "trainer=cpu", "precision=32-true",
                                "total_kimg=1e6", "run_dir=unused"])  # fmt: skip
        torch.manual_seed(0)
        gan: GAN = make(cfg.model)
        trainer = make_trainer(cfg, Path(folder), 0)
        trainer.callbacks, trainer.loggers = [watcher], []  # type: ignore[attr-defined]
        trainer.fit(gan, datamodule=data or make(cfg.data))
    return gan


# -- the models: ours, the least, and another project's step ---------------------------------------


def dcgan(examples: Path | None, *keys: str, penalties: str = "") -> tuple[int, int, Step | None]:
    batch = 8
    flops, gan = ours("experiment=dcgan_64", "data=emoji", f"batch_size={batch}", *keys)
    g = cost(gan.generator, torch.zeros(batch, gan.nz), first=["base.1"])
    images = torch.zeros(batch, 3, 64, 64)
    d = cost(gan.discriminator, images, first=["stages.0.0"], last="score")
    least = g.trained + 2 * d.trained + d.passed
    least += {"": 0, "wgan-gp": d.mixed_penalty, "r1, r2": 2 * d.shared_penalty + d.forward}[
        penalties
    ]
    options = argparse.Namespace(
        examples=examples, batch=batch, image_size=64, width=64, device="cpu"
    )
    return flops, least, engine.examples(options, bf16=False) if examples else None


def pggan(zoo: Path | None) -> tuple[int, int, Step | None]:
    size, batch, base, most = 16, 8, 1024, 128
    flops, gan = ours(
        "model=pggan", "data=emoji", f"image_size={size}",
        f"model.generator.fmap_base={base}", f"model.generator.fmap_max={most}",
        "model.growth.train_kimg=0", "model.growth.fade_kimg=0",
        f"model.growth.batch_sizes={{4: {batch}, 8: {batch}, 16: {batch}}}",
    )  # fmt: skip
    g = cost(gan.generator, torch.zeros(batch, gan.generator.nz), first=["blocks.0.0"])
    top = len(gan.discriminator.blocks) - 1
    d = cost(
        gan.discriminator, torch.zeros(batch, 3, size, size),
        first=[f"from_rgb.{top}"], last="blocks.0.6", behind=("blocks.0",),
    )  # fmt: skip
    least = g.forward + 2 * d.trained + d.mixed_penalty + g.trained + d.passed
    return flops, least, zoo_step(zoo, size, batch, base, most) if zoo else None


def biggan(ajbrock: Path | None) -> tuple[int, int, Step | None]:
    batch, steps = 4, 4
    flops, gan = ours("experiment=biggan_cifar10", "data=synthetic", f"batch_size={batch}",
                      "model.ema_start_kimg=0")  # fmt: skip
    y = torch.zeros(batch, dtype=torch.int64)
    g = cost(gan.generator, torch.zeros(batch, gan.generator.nz), y, first=["linear"])
    first = ["blocks.0.conv1", "blocks.0.shortcut"]
    d = cost(gan.discriminator, torch.zeros(batch, 3, 32, 32), y, first=first)
    least = steps * (g.forward + 2 * d.trained) + g.trained + d.passed
    return flops, least, official_step(ajbrock, batch, steps, bf16=False) if ajbrock else None


def cycles(zoo: Path | None) -> tuple[int, int, Step | None]:
    size, width = 64, 16
    data = Unpaired(partial(discs), partial(discs), size, channels=3, batch_size=1, seed=0)
    flops, gan = ours("model=cyclegan", f"image_size={size}", f"model.generator.ngf={width}",
                      f"model.discriminator.ndf={width}", "batch_size=1", data=data)  # fmt: skip
    images = torch.zeros(1, 3, size, size)
    g = cost(gan.generator["AtoB"], images, first=["layers.0"])
    d = cost(gan.discriminator["A"], images, first=["layers.0"])
    least = 4 * g.trained + 2 * (g.trained + g.first) + 2 * d.passed + 4 * d.trained
    if zoo is None:
        return flops, least, None
    options = argparse.Namespace(zoo=zoo, folder="unused", ngf=width, ndf=width, blocks=9,
                              batch=1, size=size)  # fmt: skip
    return flops, least, cyclegan.zoo_step(options)


# -- whether the counter counts right --------------------------------------------------------------


def check_counter() -> None:
    """Compare the counter with closed forms: a convolution, a transposed one, a double backward.

    One pass multiplies and adds each weight at each of the places that it is applied to. Raises
    SystemExit where it counts otherwise.
    """
    n, inputs, outputs, side, kernel = 2, 6, 10, 16, 4
    pass_ = 2 * n * inputs * outputs * kernel**2 * (side // 2) ** 2  # the same of both kinds
    down = nn.Conv2d(inputs, outputs, kernel, 2, 1)
    up = nn.ConvTranspose2d(inputs, outputs, kernel, 2, 1)
    for layer, places in ((down, side), (up, side // 2)):
        x = torch.randn(n, inputs, places, places)
        wanted = x.clone().requires_grad_()
        expect("forward", pass_, partial(layer, x))
        expect("gradient of the weights", 2 * pass_, partial(backward, layer, x))
        expect("gradient of weights and input", 3 * pass_, partial(backward, layer, wanted))
        # Forward, gradient, and of the gradient: by the weights and by what was sent back.
        expect("double backward", 4 * pass_, partial(twice, layer, wanted))


def backward(layer: nn.Module, x: Tensor) -> None:
    layer(x).sum().backward()


def twice(layer: nn.Module, x: Tensor) -> None:
    y = layer(x)
    sent = torch.ones_like(y, requires_grad=True)
    (gradient,) = torch.autograd.grad(y, x, sent, create_graph=True)
    gradient.square().sum().backward()


def expect(name: str, flops: int, step: Step) -> None:
    if (found := counted(step)) != flops:
        raise SystemExit(f"{name}: the counter says {found}, not {flops}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--examples", type=Path, help="a checkout of pytorch/examples")
    add("--gan-zoo", type=Path, help="a checkout of facebookresearch/pytorch_GAN_zoo")
    add("--ajbrock", type=Path, help="a checkout of ajbrock/BigGAN-PyTorch")
    add("--cut", type=Path, help="a checkout of taesungp/contrastive-unpaired-translation")
    add("--only", help="one row, by its name")
    args = parser.parse_args()
    torch.set_num_threads(1)
    check_counter()
    plain = "model.discriminator.norm=none"
    gp = "loss=wasserstein_gp", plain
    relative = "loss=relativistic", "model.r1=1", "model.r2=1", plain
    rows: dict[str, Callable[[], tuple[int, int, Step | None]]] = {
        "dcgan": lambda: dcgan(args.examples),
        "dcgan, WGAN-GP": lambda: dcgan(None, *gp, penalties="wgan-gp"),
        "dcgan, R1 and R2": lambda: dcgan(None, *relative, penalties="r1, r2"),
        "pggan": lambda: pggan(args.gan_zoo),
        "biggan": lambda: biggan(args.ajbrock),
        "cyclegan": lambda: cycles(args.cut),
    }
    if not args.only:  # each in a process of its own: two checkouts have a package `models`
        for name in rows:
            command = [sys.executable, __file__, *sys.argv[1:], "--only", name]
            subprocess.run(command, check=True)
        return
    flops, least, peer = rows[args.only]()
    line = f"{args.only:18} {least / 1e9:8.2f} GFLOP  ganzoo/least {flops / least:.3f}"
    print(line + (f"  peer/least {counted(peer) / least:.3f}" if peer else ""), flush=True)


if __name__ == "__main__":
    main()
