"""Time and memory of one iteration of PGGAN at each size, against pytorch_GAN_zoo's own step.

Both use the same sizes, widths and batches, with WGAN-GP, drift and the minibatch standard
deviation, and take turns in one process, in blocks of a few iterations. No code of that project is
copied here: --zoo is the path of its checkout. See `benchmarks/README.md`.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch.callbacks import Callback

from ganzoo.config import CONF, make
from ganzoo.engine.memory import forget_peak, peak_memory
from ganzoo.train import make_trainer

Step = Callable[[], Any]


def zoo_step(checkout: Path, size: int, batch: int, base: int, most: int) -> Step:
    """One call of its optimizeParameters, on images made before."""
    sys.path.insert(0, str(checkout))
    from models.progressive_gan import ProgressiveGAN

    class Current(ProgressiveGAN):
        """With betas that are floats, as today's Adam wants them."""

        def _adam(self, network: torch.nn.Module) -> torch.optim.Optimizer:
            return torch.optim.Adam(
                network.parameters(), lr=self.config.learningRate, betas=(0.0, 0.99)
            )

        def getOptimizerD(self) -> torch.optim.Optimizer:
            return self._adam(self.netD)

        def getOptimizerG(self) -> torch.optim.Optimizer:
            return self._adam(self.netG)

    widths = [min(base // 2 ** (i + 1), most) for i in range(int(math.log2(size)) - 1)]
    gan = Current(
        dimLatentVector=min(base, most), depthScale0=widths[0], miniBatchStdDev=True,
        useGPU=False, lossMode="WGANGP", lambdaGP=10.0, epsilonD=0.001,
    )  # fmt: skip
    for width in widths[1:]:
        gan.addScale(width)
    images = torch.rand(batch, 3, size, size) * 2 - 1
    return lambda: gan.optimizeParameters(images)


class Turns(Callback):
    """Lets another step have a turn after every block of iterations of the Trainer."""

    def __init__(self, other: Step | None, block: int, rounds: int) -> None:
        self.other, self.block, self.rounds = other, block, rounds
        self.ours: list[float] = []
        self.theirs: list[float] = []
        self.iterations = 0
        self.before = 0.0  # GiB, without the networks

    def on_train_start(self, *_: Any) -> None:
        self.since = time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.iterations += 1
        if self.iterations % self.block:
            return
        self.ours.append((time.perf_counter() - self.since) / self.block)
        if self.other is not None:
            start = time.perf_counter()
            for _turn in range(self.block):
                self.other()
            self.theirs.append((time.perf_counter() - start) / self.block)
        if len(self.ours) > self.rounds:
            trainer.should_stop = True
        self.since = time.perf_counter()


def run(args: argparse.Namespace, size: int, other: Step | None) -> Turns:
    """Iterations of ours at one size, under the Trainer of a run, with turns of the other."""
    whole = max(size, 8)  # the smallest network; at 4 px it has not grown yet
    keys = [
        "model=pggan", "data=emoji", "logger=csv", f"image_size={whole}", "total_kimg=1e6",
        f"precision={args.precision}", "tf32=false", "metrics=quick", "trainer=cpu",
        f"model.generator.fmap_base={args.fmap_base}", f"model.generator.fmap_max={args.fmap_max}",
        f"model.growth.train_kimg={1e6 if size < 8 else 0}", "model.growth.fade_kimg=0",
        f"model.growth.batch_sizes={{4: {args.batch}, 8: {args.batch}, 16: {args.batch}, "
        f"32: {args.batch}, 64: {args.batch}}}", "run_dir=unused",
    ]  # fmt: skip
    keys += [f"callbacks.{name}=null" for name in ("grid", "metrics", "accuracy", "save", "bar")]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [*keys, "callbacks.ticks=null", "callbacks.stages=null"])
    torch.manual_seed(0)
    trainer = make_trainer(cfg, Path(args.folder), 0)
    trainer.callbacks = []  # type: ignore[attr-defined]
    turns = Turns(other, args.block, args.rounds)
    trainer.callbacks.append(turns)  # type: ignore[attr-defined]
    trainer.loggers = []
    data = make(cfg.data)
    data.source.__getitems__([0])
    turns.before = peak_gib()
    trainer.fit(make(cfg.model), datamodule=data)
    return turns


def peak_gib() -> float:
    """Largest memory of this process since this was last asked for."""
    peak = peak_memory(torch.device("cpu")) / 2**30
    forget_peak(torch.device("cpu"))
    return peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--zoo", type=Path, help="a checkout of facebookresearch/pytorch_GAN_zoo")
    parser.add_argument("--sizes", type=int, nargs="+", default=[4, 8, 16, 32, 64])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--fmap-base", type=int, default=8192)
    parser.add_argument("--fmap-max", type=int, default=512)
    parser.add_argument("--block", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--folder", default="/tmp/ganzoo-benchmark", help="for nothing much")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--memory-of", choices=["ganzoo", "zoo"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    shape = args.batch, args.fmap_base, args.fmap_max
    if args.memory_of:  # in a process of its own
        peak_gib()
        before = peak_gib()
        if args.memory_of == "zoo":
            step = zoo_step(args.zoo, args.sizes[0], *shape)
            for _ in range(3):
                step()
        else:
            args.block, args.rounds = 1, 2
            before = run(args, args.sizes[0], None).before
        print(json.dumps({"gib": peak_gib() - before}))
        return
    told = []
    for size in args.sizes:
        other = None if args.zoo is None else zoo_step(args.zoo, size, *shape)
        turns = run(args, size, other)
        row: dict[str, Any] = {"size": size, "ganzoo_ms": 1000 * statistics.median(turns.ours[1:])}
        if other is not None:
            row["zoo_ms"] = 1000 * statistics.median(turns.theirs[1:])
            pairs = zip(turns.theirs[1:], turns.ours[1:], strict=True)
            row["zoo/ganzoo"] = statistics.median(b / a for b, a in pairs)
            for name in ("ganzoo", "zoo"):
                command = [sys.executable, __file__, "--memory-of", name, "--sizes", str(size),
                           "--zoo", str(args.zoo), "--batch", str(args.batch),
                           "--fmap-base", str(args.fmap_base), "--fmap-max", str(args.fmap_max),
                           "--precision", args.precision]  # fmt: skip
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                row[f"{name}_gib"] = json.loads(done.stdout.splitlines()[-1])["gib"]
        told.append(row)
        print("  ".join(f"{k} {v:.3g}" for k, v in row.items()), flush=True)
    if args.json:
        args.json.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
