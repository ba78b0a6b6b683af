"""Time of one iteration of BigGAN: on CIFAR-10 against the authors' own step, at 128 px on a GPU.

Without --largest, two steps take turns: the recipe experiment=biggan_cifar10 under the Trainer of a
run, and the training function of a checkout of ajbrock/BigGAN-PyTorch with its networks, optimizers
and average, on images prepared in advance. No code of that project is copied here. --largest prints
images/s and peak memory of experiment=biggan_bs256x8 by precision and memory format, compiled and
not, each in its own process with the largest micro-batch that fits. See `benchmarks/README.md`.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext, redirect_stdout
from importlib.util import find_spec
from io import StringIO
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import lightning as L
import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig
from pggan import Step, Turns, peak_gib
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from ganzoo.config import CONF, make
from ganzoo.data import choosing  # noqa: F401  defines ${classes:...}
from ganzoo.train import make_trainer

# Of --largest: name, keys.
VARIANTS: dict[str, list[str]] = {
    "float32": ["precision=32-true", "tf32=false", "model.channels_last=false"],
    "float32, channels last": ["precision=32-true", "tf32=false", "model.channels_last=true"],
    "tf32, channels last": ["precision=32-true", "tf32=true", "model.channels_last=true"],
    "bf16": ["precision=bf16-mixed", "tf32=true", "model.channels_last=false"],
    "bf16, channels last": ["precision=bf16-mixed", "tf32=true", "model.channels_last=true"],
    "bf16, channels last, compiled": [
        "precision=bf16-mixed", "tf32=true", "model.channels_last=true",
        "model.compile=[generator,discriminator]",
    ],
}  # fmt: skip


def official_step(checkout: Path, batch: int, steps: int, bf16: bool) -> Step:
    """One call of its training function, as launch_cifar_ema.sh configures it."""
    sys.path.insert(0, str(checkout))
    if find_spec("h5py") is None:
        sys.modules["h5py"] = ModuleType("h5py")  # its data sets, which are not used, import that
    import BigGAN
    import train_fns
    import utils

    options: dict[str, Any] = {
        "resolution": 32, "n_classes": 10, "dim_z": 128, "G_ch": 64, "D_ch": 64, "G_attn": "0",
        "D_attn": "0", "G_shared": False, "hier": False, "G_init": "N02", "D_init": "N02",
        "G_lr": 2e-4, "D_lr": 2e-4, "SN_eps": 1e-8, "BN_eps": 1e-5, "adam_eps": 1e-8,
    }  # fmt: skip
    with redirect_stdout(StringIO()):
        generator, average = (BigGAN.Generator(**options, no_optim=no) for no in (False, True))
        discriminator = BigGAN.Discriminator(**options)
        ema = utils.ema(generator, average, 0.9999, 1000)
    z, y = utils.prepare_z_y(batch, generator.dim_z, 10, device="cpu")
    train = train_fns.GAN_training_function(
        generator, discriminator, BigGAN.G_D(generator, discriminator), z, y, ema,
        {"itr": 2000},
        {
            "batch_size": batch, "num_D_steps": steps, "num_D_accumulations": 1,
            "num_G_accumulations": 1, "split_D": False, "toggle_grads": True, "D_ortho": 0.0,
            "G_ortho": 0.0, "ema": True,
        },
    )  # fmt: skip
    images = torch.rand(batch * steps, 3, 32, 32) * 2 - 1
    labels = torch.randint(10, (batch * steps,))

    def step() -> Any:
        with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
            return train(images, labels)

    return step


def config(*keys: str) -> DictConfig:
    quiet = [
        f"callbacks.{name}=null"
        for name in ("ticks", "grid", "metrics", "accuracy", "stages", "save", "bar")
    ]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", [*keys, *quiet, "logger=none", "run_dir=unused", "total_kimg=1e6"])


def cifar(args: argparse.Namespace) -> dict[str, Any]:
    """Iterations of ours on synthetic images, with turns of the official step."""
    other = None
    if args.ajbrock is not None:
        other = official_step(args.ajbrock, args.batch, 4, args.their_autocast)
    cfg = config(
        "experiment=biggan_cifar10", "data=synthetic", "trainer=cpu", f"batch_size={args.batch}",
        f"precision={args.precision}", "model.ema_start_kimg=0",
    )  # fmt: skip
    gan = make(cfg.model)
    trainer = make_trainer(cfg, Path(args.folder), 0)
    turns = Turns(other, args.block, args.rounds)
    trainer.callbacks, trainer.loggers = [turns], []  # type: ignore[attr-defined]
    trainer.fit(gan, datamodule=make(cfg.data))
    row: dict[str, Any] = {"precision": args.precision}
    row["ganzoo_ms"] = 1000 * statistics.median(turns.ours[1:])
    if other is not None:
        row["official_ms"] = 1000 * statistics.median(turns.theirs[1:])
        pairs = zip(turns.theirs[1:], turns.ours[1:], strict=True)
        row["official/ganzoo"] = statistics.median(b / a for b, a in pairs)
    return row


class Same(IterableDataset):
    """One batch on the device, again and again."""

    def __init__(self, batch: dict[str, Tensor]) -> None:
        self.batch = batch

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        while True:
            yield self.batch


class Timer(Callback):
    """Seconds of iterations, the device waited for, after some that are not counted."""

    def __init__(self, warm: int, count: int) -> None:
        self.warm, self.count = warm, count
        self.times: list[float] = []

    def on_train_batch_end(self, trainer: L.Trainer, gan: L.LightningModule, *_: Any) -> None:
        if gan.device.type == "cuda":
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())
        trainer.should_stop = len(self.times) > self.warm + self.count

    @property
    def seconds(self) -> float:
        ends = self.times[self.warm :]
        return statistics.median(b - a for a, b in pairwise(ends))


def largest(args: argparse.Namespace) -> dict[str, Any]:
    """One variant with one size of micro-batches, in this process."""
    cfg = config(
        "experiment=biggan_bs256x8", "data=synthetic", f"image_size={args.image_size}",
        f"model.generator.ch={args.ch}", f"trainer={'gpu' if args.device == 'cuda' else 'cpu'}",
        f"batch_size={args.batch}", "model.accumulate=1", "model.generator.init=normal",
        *VARIANTS[args.variant],
    )  # fmt: skip
    with torch.device(args.device):
        gan = make(cfg.model)
        shape = args.batch, 3, args.image_size, args.image_size
        batch = {"image": torch.rand(shape) * 2 - 1, "label": torch.randint(1000, shape[:1])}
    timer = Timer(args.warm, args.count)
    trainer = make_trainer(cfg, Path(args.folder), 0)
    trainer.callbacks, trainer.loggers = [timer], []  # type: ignore[attr-defined]
    trainer.fit(gan, DataLoader(Same(batch), batch_size=None))
    gpu = args.device == "cuda"
    peak = torch.cuda.max_memory_allocated() / 2**30 if gpu else peak_gib()
    return {"images/s": args.batch / timer.seconds, "gib": peak}


def sweep(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Every variant with micro-batches that double until one does not fit, and in between."""
    told = []
    for variant in VARIANTS:
        fits, fails = 0, math.inf
        batch = args.batch
        while batch:
            command = [sys.executable, __file__, "--variant", variant, "--batch", str(batch)]
            for name in ("device", "image_size", "ch", "warm", "count", "threads", "folder"):
                command += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                fits, row = batch, json.loads(done.stdout.splitlines()[-1])
                told.append({"variant": variant, "batch": batch, **row})
                print("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}"
                                for k, v in told[-1].items()), flush=True)  # fmt: skip
            elif "OutOfMemory" in done.stderr or "out of memory" in done.stderr:
                fails = batch
            else:
                sys.exit(f"{variant}, {batch}: {done.stderr[-2000:]}")
            batch = 2 * fits if math.isinf(fails) else int(fits + fails) // 2
            if batch > args.most or batch - fits < max(8, fits // 8):
                break
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ajbrock", type=Path, help="a checkout of ajbrock/BigGAN-PyTorch")
    parser.add_argument("--precision", default="32-true", help="or bf16-mixed")
    parser.add_argument("--their-autocast", action="store_true", help="bf16 for its step, too")
    parser.add_argument("--batch", type=int, default=50, help="of --largest: the first one tried")
    parser.add_argument("--block", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--largest", action="store_true", help="BigGAN-128 as described above")
    parser.add_argument("--device", default="cuda", help="of --largest")
    parser.add_argument("--image-size", type=int, default=128, help="of --largest")
    parser.add_argument("--ch", type=int, default=96, help="of --largest")
    parser.add_argument("--most", type=int, default=2048, help="of --largest: no larger batches")
    parser.add_argument("--warm", type=int, default=5, help="iterations that are not counted")
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--variant", choices=list(VARIANTS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", default="/tmp/ganzoo-benchmark", help="for nothing much")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.variant:  # in a process of its own
        print(json.dumps(largest(args)))
        return
    told: Any = sweep(args) if args.largest else cifar(args)
    if not args.largest:
        print(
            "  ".join(
                f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in told.items()
            )
        )
    if args.json:
        args.json.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
