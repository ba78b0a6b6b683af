"""The cost of an iteration of DCGAN-64: under our Trainer, in a bare loop, in pytorch/examples.

The variants take turns in one process, in short blocks of iterations and in a new random order each
round, so that other work of the machine affects them equally. See `benchmarks/README.md`.
"""

import argparse
import ast
import json
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig
from torch import Tensor, nn

from ganzoo import train
from ganzoo.config import CONF, make
from ganzoo.data.pixels import to_float
from ganzoo.data.sources.emoji import Emoji
from ganzoo.models.dcgan import Discriminator, Generator

NZ, CHANNELS = 100, 3
QUIET = 0.05  # a block is undisturbed if others had less than this share of all cores meanwhile
Step = Callable[[], None]


@dataclass
class Block:
    """Seconds per iteration, and the share of all cores that went to others; None if unknown."""

    round: int
    variant: str
    wall: float
    cpu: float
    others: float | None


@dataclass
class Moment:
    """Seconds on the wall clock, of this process on all cores, and of the whole machine's work."""

    wall: float
    cpu: float
    machine: float | None


# -- the bare loops -------------------------------------------------------------------------------


def bare(args: argparse.Namespace, bf16: bool) -> Step:
    """The least that one iteration can do: fakes made once, D without gradients in G's step."""
    device = args.device
    generator = Generator(args.image_size, CHANNELS, NZ, args.width)
    discriminator = Discriminator(args.image_size, CHANNELS, args.width)
    adam = partial(torch.optim.Adam, lr=2e-4, betas=(0.5, 0.999), fused=True)
    optimizers = []
    for network in (generator, discriminator):
        network.to(device).to(memory_format=torch.channels_last)
        optimizers.append(adam(network.parameters()))
    g_optimizer, d_optimizer = optimizers
    autocast = partial(torch.autocast, device, torch.bfloat16, enabled=bf16)
    batches = cycle(
        [b.contiguous(memory_format=torch.channels_last) for b in premade_batches(args)]
    )

    def step() -> None:
        real = next(batches)
        with autocast():
            fake = generator(torch.randn(len(real), NZ, device=device))
            real_logits, fake_logits = discriminator(real), discriminator(fake.detach())
            loss = F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()
        loss.backward()
        d_optimizer.step()
        d_optimizer.zero_grad()

        discriminator.requires_grad_(False)
        with autocast():
            loss = F.softplus(-discriminator(fake)).mean()
        loss.backward()
        g_optimizer.step()
        g_optimizer.zero_grad()
        discriminator.requires_grad_(True)

    return step


def examples(args: argparse.Namespace, bf16: bool) -> Step:
    """The training step of pytorch/examples' DCGAN, with the networks of the given checkout.

    Under autocast its sigmoid outputs are judged in float32, as binary cross-entropy demands.
    """
    device = args.device
    theirs = load_examples(args.examples, args.width)
    generator, discriminator = theirs["Generator"](1), theirs["Discriminator"](1)
    optimizers = []
    for network in (generator, discriminator):
        network.to(device).apply(theirs["weights_init"])
        optimizers.append(torch.optim.Adam(network.parameters(), lr=2e-4, betas=(0.5, 0.999)))
    g_optimizer, d_optimizer = optimizers
    autocast = partial(torch.autocast, device, torch.bfloat16, enabled=bf16)
    cross_entropy = nn.BCELoss()
    batches = cycle(premade_batches(args))

    def judge(images: Tensor, label: Tensor) -> Tensor:
        """Backward through D's loss; the loss. The mean score is read, as the example does."""
        with autocast():
            score = discriminator(images).float()
        loss = cross_entropy(score, label)
        loss.backward()
        score.mean().item()
        return loss

    def step() -> None:
        real = next(batches)
        discriminator.zero_grad()
        label = torch.full((len(real),), 1.0, device=device)
        d_loss = judge(real, label)
        with autocast():
            fake = generator(torch.randn(len(real), NZ, 1, 1, device=device))
        d_loss = d_loss + judge(fake.detach(), label.fill_(0))
        d_optimizer.step()

        generator.zero_grad()
        g_loss = judge(fake, label.fill_(1))
        g_optimizer.step()
        d_loss.item(), g_loss.item()

    return step


def load_examples(checkout: Path, width: int) -> dict[str, Any]:
    """The two networks and `weights_init` of `dcgan/main.py`, without running the script."""
    path = checkout / "dcgan" / "main.py"
    wanted = {"Generator", "Discriminator", "weights_init"}
    tree = ast.parse(path.read_text())
    tree.body = [
        node
        for node in tree.body
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name in wanted
    ]
    names: dict[str, Any] = {"torch": torch, "nn": nn}
    names |= {"nc": CHANNELS, "nz": NZ, "ngf": width, "ndf": width}
    exec(compile(tree, path, "exec"), names)
    if missing := wanted - names.keys():
        raise SystemExit(f"{path} does not define {', '.join(sorted(missing))}.")
    return names


def premade_batches(args: argparse.Namespace, number: int = 8) -> list[Tensor]:
    """Real images on the device: those that the Trainer's data makes, too."""
    source = Emoji(image_size=args.image_size)
    images = to_float(source.__getitems__(list(range(number * args.batch)))["image"])
    return list(images.to(args.device).split(args.batch))


# -- our Trainer ----------------------------------------------------------------------------------


def compose_config(
    args: argparse.Namespace, bf16: bool, defaults: bool, run_dir: str
) -> DictConfig:
    """The config of a run: the recipe `dcgan_64`, or its size with average and augmentation."""
    overrides = [
        *([] if defaults else ["experiment=dcgan_64"]),
        "data=emoji",
        "logger=none",
        "tf32=false",
        f"trainer={'gpu' if args.device == 'cuda' else 'cpu'}",
        f"precision={'bf16-mixed' if bf16 else '32-true'}",
        f"image_size={args.image_size}",
        f"model.generator.ngf={args.width}",
        f"model.discriminator.ndf={args.width}",
        f"batch_size={args.batch}",
        f"seed={args.seed}",
        "total_kimg=1000000",  # until the rounds are over
        f"run_dir={run_dir}",
    ]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides)


class Conductor(Callback):
    """Lets other variants run when the Trainer has ended a block; has to be the last callback."""

    def __init__(self, script: Iterator[None], block: int) -> None:
        self.script, self.block = script, block
        self.iterations = 0
        self.over = False

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self.iterations += 1
        if self.iterations % self.block == 0 and not trainer.should_stop:
            self.over = next(self.script, "over") == "over"
            trainer.should_stop = self.over


def interleave(
    args: argparse.Namespace, steps: dict[str, Step | None], blocks: list[Block]
) -> Iterator[None]:
    """Run and time all variants in rounds; yields where the one without a step is to run a block.

    Its first block, before the first `next`, is its warm-up.
    """
    for step in filter(None, steps.values()):
        repeat(step, args.block)
    order = random.Random(args.seed)
    for number in range(args.rounds):
        for variant in order.sample(list(steps), len(steps)):
            start = moment(args.device)
            own = steps[variant]
            if own:
                repeat(own, args.block)
            else:
                yield
            blocks.append(measured(number, variant, start, moment(args.device), args.block))


def repeat(step: Step, times: int) -> None:
    for _ in range(times):
        step()


def run_session(args: argparse.Namespace, bf16: bool, defaults: bool) -> list[Block]:
    """All blocks of one Trainer and of the loops that take turns with it."""
    steps: dict[str, Step | None] = {"ganzoo": None, "bare": bare(args, bf16)}
    if args.examples:
        steps["examples"] = examples(args, bf16)
        if bf16:
            steps["examples_float32"] = examples(args, bf16=False)
    blocks: list[Block] = []
    with tempfile.TemporaryDirectory() as folder:
        cfg = compose_config(args, bf16, defaults, folder)
        L.seed_everything(cfg.seed, verbose=False)
        data, gan = make(cfg.data), make(cfg.model)
        trainer = train.make_trainer(cfg, Path(folder), images_seen=0)
        conductor = Conductor(interleave(args, steps, blocks), args.block)
        trainer.callbacks.append(conductor)  # type: ignore[attr-defined]
        train.fit(trainer, gan, data, last=None)
    if not conductor.over:
        raise SystemExit("interrupted")  # the signal went to SaveLast, which ended the training
    return blocks


# -- time -----------------------------------------------------------------------------------------


def moment(device: str) -> Moment:
    """Now, with the device idle."""
    if device == "cuda":
        torch.cuda.synchronize()
    return Moment(time.perf_counter(), time.process_time(), machine_seconds())


def machine_seconds() -> float | None:
    """Seconds that all cores worked since boot, steal included; None where Linux does not say."""
    try:
        with open("/proc/stat") as file:
            user, nice, system, _, _, irq, softirq, steal = map(int, file.readline().split()[1:9])
    except (OSError, ValueError):
        return None
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def measured(number: int, variant: str, start: Moment, end: Moment, iterations: int) -> Block:
    wall, cpu = end.wall - start.wall, end.cpu - start.cpu
    others = None
    if start.machine is not None and end.machine is not None:
        machine = end.machine - start.machine
        if machine > cpu / 2:  # else the counter is a stub, as in some sandboxes
            others = max(0.0, machine - cpu) / (wall * (os.cpu_count() or 1))
    return Block(number, variant, wall / iterations, cpu / iterations, others)


# -- the report -----------------------------------------------------------------------------------


def summarize(blocks: list[Block]) -> dict[str, Any]:
    """Medians of each variant, and medians of the ratios of two variants in the same round."""
    rounds: dict[int, dict[str, Block]] = {}
    for block in blocks:
        rounds.setdefault(block.round, {})[block.variant] = block
    everything = list(rounds.values())
    quiet = [r for r in everything if all(undisturbed(b) for b in r.values())]
    names = sorted({block.variant for block in blocks})
    pairs = [("ganzoo", "bare")] + [(n, "ganzoo") for n in names if n.startswith("examples")]
    return {
        "variants": {name: medians([r[name] for r in everything]) for name in names},
        "ratios": {
            f"{a}/{b}": {"all": paired(everything, a, b), "undisturbed": paired(quiet, a, b)}
            for a, b in pairs
        },
        "rounds": len(everything),
        "undisturbed_rounds": len(quiet),
    }


def undisturbed(block: Block) -> bool:
    return block.others is not None and block.others < QUIET


def medians(blocks: list[Block]) -> dict[str, float]:
    return {
        "wall": statistics.median(b.wall for b in blocks),
        "wall_mean": statistics.fmean(b.wall for b in blocks),
        "cpu": statistics.median(b.cpu for b in blocks),
        "undisturbed": sum(map(undisturbed, blocks)),
    }


def paired(rounds: list[dict[str, Block]], a: str, b: str) -> dict[str, float] | None:
    """Medians over rounds of a / b, and the wall time that a takes more; None without rounds."""
    if not rounds:
        return None
    return {
        "wall": statistics.median(r[a].wall / r[b].wall for r in rounds),
        "cpu": statistics.median(r[a].cpu / r[b].cpu for r in rounds),
        "more": statistics.median(r[a].wall - r[b].wall for r in rounds),
    }


def table(title: str, summary: dict[str, Any]) -> str:
    rounds, quiet = summary["rounds"], summary["undisturbed_rounds"]
    lines = [
        f"\n{title}: {rounds} rounds, {quiet} undisturbed",
        f"{'ms per iteration':<26}{'wall':>9}{'mean':>9}{'CPU':>9}{'undisturbed':>16}",
    ]
    for name, row in summary["variants"].items():
        ms = "".join(f"{1000 * row[key]:9.2f}" for key in ("wall", "wall_mean", "cpu"))
        lines.append(f"  {name:<24}{ms}{row['undisturbed']:9d} blocks")
    lines.append(f"{'ratio':<26}{'wall':>9}{'CPU':>9}{'more ms':>9}")
    for name, kinds in summary["ratios"].items():
        for kind, ratio in kinds.items():
            if ratio:
                row = f"{ratio['wall']:9.3f}{ratio['cpu']:9.3f}{1000 * ratio['more']:9.2f}"
                lines.append(f"  {name:<24}{row}  {kind}")
    return "\n".join(lines)


def describe_machine(args: argparse.Namespace) -> dict[str, Any]:
    try:
        facts = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        facts = []
    known = {key.strip(): value.strip() for key, _, value in (f.partition(":") for f in facts)}
    return {
        "cpu": known.get("model name", platform.processor() or platform.machine()),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "amx": "amx_tile" in known.get("flags", ""),
        "gpu": torch.cuda.get_device_name() if args.device == "cuda" else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": L.__version__,
        "platform": platform.platform(),
    }


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--examples", type=Path, help="a checkout of pytorch/examples to compare with")
    add("--precision", choices=["float32", "bf16", "both"], default="both")
    add("--defaults", action="store_true", help="also with average generator and augmentation")
    add("--rounds", type=int, default=20)
    add("--block", type=int, default=5, help="iterations of a variant before the next one's turn")
    add("--threads", type=int, default=2)
    add("--device", choices=["cpu", "cuda"], default="cpu")
    add("--seed", type=int, default=0, help="of the order in which variants take turns")
    add("--batch", type=int, default=64)
    add("--image-size", type=int, default=64)
    add("--width", type=int, default=64, help="ngf and ndf")
    add("--json", type=Path, help="a file for all numbers")
    args = parser.parse_args()
    if args.examples and not (args.examples / "dcgan" / "main.py").is_file():
        parser.error(f"{args.examples} holds no dcgan/main.py: give a checkout of pytorch/examples")
    if args.examples and args.image_size != 64:
        parser.error("the networks of pytorch/examples are for --image-size 64")
    return args


def main() -> None:
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    machine = describe_machine(args)
    print(", ".join(f"{key} {value}" for key, value in machine.items()), flush=True)
    precisions = ["float32", "bf16"] if args.precision == "both" else [args.precision]
    sessions = []
    for defaults in [False, True] if args.defaults else [False]:
        for precision in precisions:
            title = f"{precision}{', average and augmentation' if defaults else ''}"
            blocks = run_session(args, precision == "bf16", defaults)
            summary = summarize(blocks)
            print(table(title, summary), flush=True)
            sessions.append(
                {"title": title, "summary": summary, "blocks": [asdict(b) for b in blocks]}
            )
    if args.json:
        options = {key: str(v) if isinstance(v, Path) else v for key, v in vars(args).items()}
        report = {"machine": machine, "options": options, "sessions": sessions}
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
