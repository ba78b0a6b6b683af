"""Time and memory of one iteration of CycleGAN, against the authors' own step and a bare loop.

They take turns in one process, in blocks of a few iterations, with the same networks, losses and
batches of one image. No code of the authors' project is copied here: --zoo is the path of a
checkout of taesungp/contrastive-unpaired-translation, which has their networks and their step;
antialiasing is switched off. --device cuda measures only our step on a GPU, by precision and
memory format. See `benchmarks/README.md`.
"""

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from ganzoo.config import CONF, make
from ganzoo.data.source import Source
from ganzoo.data.sources.synthetic import Synthetic
from ganzoo.data.unpaired import Unpaired
from ganzoo.models.cyclegan import PatchDiscriminator, ResNetGenerator
from ganzoo.train import make_trainer

Step = Callable[[], Any]

# What is added one after the other on a GPU.
ON_GPU = {
    "float32": ["precision=32-true", "tf32=false"],
    "tf32": ["precision=32-true", "tf32=true"],
    "bf16": ["precision=bf16-mixed"],
    "bf16 channels_last": ["precision=bf16-mixed", "model.channels_last=true"],
    "bf16 channels_last compiled": [
        "precision=bf16-mixed",
        "model.channels_last=true",
        "model.compile=[generator,discriminator]",
    ],
}


def pairs(args: argparse.Namespace) -> dict[str, Tensor]:
    shape = args.batch, 3, args.size, args.size
    return {domain: torch.rand(shape) * 2 - 1 for domain in "AB"}


def zoo_step(args: argparse.Namespace) -> Step:
    """One call of the authors' optimize_parameters, on images made before."""
    sys.path.insert(0, str(args.zoo))
    from models.cycle_gan_model import CycleGANModel

    options = SimpleNamespace(
        isTrain=True, gpu_ids=[], checkpoints_dir=args.folder, name="zoo", preprocess="none",
        input_nc=3, output_nc=3, ngf=args.ngf, netG=f"resnet_{args.blocks}blocks",
        normG="instance", no_dropout=True, init_type="normal", init_gain=0.02, no_antialias=True,
        no_antialias_up=True, ndf=args.ndf, netD="basic", n_layers_D=3, normD="instance",
        lambda_identity=0.5, lambda_A=10.0, lambda_B=10.0, pool_size=50, gan_mode="lsgan",
        lr=0.0002, beta1=0.5, direction="AtoB", amp=False,
    )  # fmt: skip
    gan = CycleGANModel(options)
    gan.set_input({**pairs(args), "A_paths": [], "B_paths": []})
    return gan.optimize_parameters


def bare_step(args: argparse.Namespace) -> Step:
    """The least that an iteration can do: no gradients for D in G's step, fakes made once."""
    forth, back = (ResNetGenerator(ngf=args.ngf, blocks=args.blocks) for _ in range(2))
    d_a, d_b = (PatchDiscriminator(ndf=args.ndf) for _ in range(2))
    generators, discriminators = nn.ModuleList([forth, back]), nn.ModuleList([d_a, d_b])
    adam = partial(torch.optim.Adam, lr=2e-4, betas=(0.5, 0.999), fused=True)
    g_adam, d_adam = adam(generators.parameters()), adam(discriminators.parameters())
    autocast = partial(torch.autocast, "cpu", torch.bfloat16, enabled="bf16" in args.precision)
    a, b = pairs(args).values()
    pools: dict[str, list[Tensor]] = {"A": [], "B": []}

    def exchanged(pool: list[Tensor], fake: Tensor) -> Tensor:
        if len(pool) < 50:
            pool.append(fake)
        elif random.random() > 0.5:
            place = random.randrange(50)
            fake, pool[place] = pool[place], fake
        return fake

    def step() -> None:
        discriminators.requires_grad_(False)
        with autocast():
            fake_b, fake_a = forth(a), back(b)
            loss = (d_b(fake_b) - 1).square().mean() + (d_a(fake_a) - 1).square().mean()
            loss = loss + 10 * (F.l1_loss(back(fake_b), a) + F.l1_loss(forth(fake_a), b))
            loss = loss + 5 * (F.l1_loss(forth(b), b) + F.l1_loss(back(a), a))
        loss.backward()
        g_adam.step()
        g_adam.zero_grad()
        discriminators.requires_grad_(True)
        shown_b = exchanged(pools["B"], fake_b.detach())
        shown_a = exchanged(pools["A"], fake_a.detach())
        with autocast():
            loss = (d_b(b) - 1).square().mean() + d_b(shown_b).square().mean()
            loss = loss + (d_a(a) - 1).square().mean() + d_a(shown_a).square().mean()
        (loss / 2).backward()
        d_adam.step()
        d_adam.zero_grad()

    return step


def discs(**options: Any) -> Source:
    return Synthetic(1000, **options)


class Turns(Callback):
    """Lets other steps have their turns around every block of iterations of the Trainer."""

    def __init__(self, others: dict[str, Step], block: int, rounds: int) -> None:
        self.others, self.block, self.rounds = others, block, rounds
        self.seconds: dict[str, list[tuple[float, float]]] = defaultdict(list)  # wall, CPU
        self.iterations = 0

    def on_train_start(self, *_: Any) -> None:
        self._begin()

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.iterations += 1
        if self.iterations % self.block:
            return
        self._add("ganzoo")
        for name in random.sample(sorted(self.others), len(self.others)):
            self._begin()
            for _turn in range(self.block):
                self.others[name]()
            self._add(name)
        if len(self.seconds["ganzoo"]) > self.rounds:
            trainer.should_stop = True
        self._begin()

    def _begin(self) -> None:
        _wait()
        self.since = time.perf_counter(), time.process_time()

    def _add(self, name: str) -> None:
        _wait()
        now = time.perf_counter(), time.process_time()
        wall, cpu = ((n - s) / self.block for n, s in zip(now, self.since, strict=True))
        self.seconds[name].append((wall, cpu))


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def run(args: argparse.Namespace, others: dict[str, Step], *overrides: str) -> Turns:
    """Iterations of ours under the Trainer of a run, the preflight left out, and the others'."""
    keys = [
        "model=cyclegan", "logger=csv", f"image_size={args.size}", f"batch_size={args.batch}",
        "total_kimg=1e6", f"precision={args.precision}", "tf32=false", "run_dir=unused",
        f"trainer={'gpu' if args.device == 'cuda' else 'cpu'}",
        f"model.generator.ngf={args.ngf}", f"model.generator.blocks={args.blocks}",
        f"model.discriminator.ndf={args.ndf}", *overrides,
    ]  # fmt: skip
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", keys)
    torch.manual_seed(0)
    gan = make(cfg.model)
    data = Unpaired(
        partial(discs), partial(discs), args.size, channels=3, batch_size=args.batch, seed=0
    )
    trainer = make_trainer(cfg, Path(args.folder), 0)
    turns = Turns(others, args.block, args.rounds)
    trainer.callbacks, trainer.loggers = [turns], []  # type: ignore[attr-defined]
    trainer.fit(gan, datamodule=data)
    return turns


def on_cpu(args: argparse.Namespace) -> dict[str, Any]:
    names = ["ganzoo", "bare", *(["zoo"] if args.zoo else [])]
    row = {}
    for name in names:  # first, since what a process has at its peak counts for its children, too
        command = [sys.executable, __file__, *sys.argv[1:], "--memory-of", name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        row[f"{name}: GiB"] = json.loads(done.stdout.splitlines()[-1])["gib"]
    others = {"bare": bare_step(args)}
    if args.zoo is not None:
        others["zoo"] = zoo_step(args)
    blocks = {name: times[1:] for name, times in run(args, others).seconds.items()}
    for i, clock in enumerate(("wall", "CPU")):
        seconds = {name: [times[i] for times in blocks[name]] for name in names}
        for name in names:
            row[f"{name}: ms, {clock}"] = 1000 * statistics.median(seconds[name])
        for above, below in (("ganzoo", "bare"), ("zoo", "ganzoo")):
            if above in names:
                both = zip(seconds[above], seconds[below], strict=True)
                row[f"{above}/{below}, {clock}"] = statistics.median(a / b for a, b in both)
    return row


def on_gpu(args: argparse.Namespace) -> dict[str, Any]:
    told = {}
    for name, overrides in ON_GPU.items():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        blocks = run(args, {}, *overrides).seconds["ganzoo"][1:]
        told[f"{name}: images/s"] = args.batch / statistics.median(wall for wall, _ in blocks)
        told[f"{name}: GiB"] = torch.cuda.max_memory_allocated() / 2**30
    return told


def memory_of(args: argparse.Namespace) -> float:
    """GiB that a process takes for three iterations of one of them."""

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

    before = peak()
    if args.memory_of == "ganzoo":
        args.block, args.rounds = 1, 2
        run(args, {})
    else:
        step = {"bare": bare_step, "zoo": zoo_step}[args.memory_of](args)
        for _ in range(3):
            step()
    return peak() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--zoo", type=Path, help="a checkout that carries the authors' step")
    parser.add_argument("--size", type=int, help="128, on a GPU 256")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--ngf", type=int, default=64)
    parser.add_argument("--ndf", type=int, default=64)
    parser.add_argument("--blocks", type=int, choices=[4, 6, 9], default=9)
    parser.add_argument("--block", type=int, help="iterations of a turn: 2, on a GPU 50")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", default="32-true", help="of ours and the bare loop")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--folder", default="/tmp/ganzoo-benchmark", help="for nothing much")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--memory-of", choices=["ganzoo", "bare", "zoo"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.size = args.size or (256 if args.device == "cuda" else 128)
    args.block = args.block or (50 if args.device == "cuda" else 2)
    torch.set_num_threads(args.threads)
    if args.memory_of:
        print(json.dumps({"gib": memory_of(args)}))
        return
    told = on_gpu(args) if args.device == "cuda" else on_cpu(args)
    print("\n".join(f"{name:40} {value:.4g}" for name, value in told.items()))
    if args.json:
        args.json.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
