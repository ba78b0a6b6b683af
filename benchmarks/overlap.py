"""Gradients in buckets against gradients all at once, over a slow network; and a model on paper.

Processes with one thread each train under the Trainer of a run in a network namespace whose
loopback is slowed by `tc` (Linux, as root). Iterations of both ways take turns, and so do
iterations in which nothing is sent. The times at which those would have sent and waited, and the
bandwidth, are all that the model on paper needs: its prediction is printed next to what was
measured, and then continued to 512 GPUs. See `benchmarks/README.md`.
"""

import argparse
import json
import math
import random
import shlex
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
import torch.distributed as dist
from hydra import compose, initialize_config_dir
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from ganzoo.config import CONF, make
from ganzoo.distributed import buckets
from ganzoo.engine.gan import GAN
from ganzoo.models.dcgan import DCGAN
from ganzoo.train import make_trainer

MODELS: dict[str, tuple[int, list[str]]] = {
    "dcgan": (16, ["experiment=dcgan_64", "data=synthetic"]),
    "cyclegan": (1, ["model=cyclegan", "image_size=64", "model.generator.ngf=32"]),
    "sleeping": (8, ["data=synthetic", "image_size=16"]),
}  # images per process, keys
WAYS = ("at once", "buckets")
PAYLOAD = 1448 / 1514  # share of a TCP packet of 1,500 bytes and its frame


class Event(NamedTuple):
    """Something that an iteration does with the network, seconds after its start."""

    at: float
    sent: int = 0  # bytes of a collective that starts
    awaited: int = -1  # number of the collective whose end is awaited


def later(events: list[Event], seconds_per_byte: float, start_up: float = 0.0) -> float:
    """By how many seconds an iteration ends later than without a network.

    Collectives run one after the other. What computes waits only where it awaits one.
    """
    delay = free = 0.0
    ends: list[float] = []
    for event in events:
        if event.awaited >= 0:
            delay = max(delay, ends[event.awaited] - event.at)
        else:
            free = max(free, event.at + delay) + start_up + seconds_per_byte * event.sent
            ends.append(free)
    return delay


def together(events: list[Event], size: float) -> list[Event]:
    """The same with as many gradients together as make a bucket of `size` bytes."""
    result: list[Event] = []
    held = collectives = 0
    for event in events:
        held += event.sent
        if held and (held >= size or event.awaited >= 0):
            result.append(Event(event.at, held))
            held, collectives = 0, collectives + 1
        if event.awaited >= 0:
            result.append(Event(event.at, awaited=collectives - 1))
    return result


# -- a model that leaves the CPU alone, as one on a GPU does ---------------------------------------


class Sleep(torch.autograd.Function):
    """A layer that takes 10 ms, and 40 ms in the backward pass; its gradient is zero."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.shape = weight.shape
        time.sleep(0.01)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        time.sleep(0.04)
        return grads[0], torch.zeros(ctx.shape) if ctx.needs_input_grad[1] else None


class Sleeping(nn.Module):
    """Layers with 4 MiB each; the result has the shape of an image, or of a logit."""

    def __init__(self, depth: int, *shape: int) -> None:
        super().__init__()
        self.weights = nn.ParameterList(torch.zeros(2**20) for _ in range(depth))
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        for weight in self.weights:
            x = Sleep.apply(x, weight)
        return x.reshape(len(x), *self.shape) if self.shape else x.flatten(1).mean(1)


def sleeping() -> GAN:
    optimizers = dict.fromkeys(("generator", "discriminator"), partial(torch.optim.SGD, lr=0.1))
    networks = Sleeping(6, 3, 16, 16), Sleeping(3)
    return DCGAN(*networks, nz=3 * 16 * 16, optimizers=optimizers, total_kimg=1e6)


# -- in the namespace ------------------------------------------------------------------------------


class Silence:
    """Stands in for `all_reduce`: sends nothing, and notes what would have been sent when."""

    def __init__(self) -> None:
        self.since = time.perf_counter()
        self.events: list[Event] = []
        self.number = 0

    def __call__(self, tensor: Tensor, *_: Any, **__: Any) -> Any:
        number, self.number = self.number, self.number + 1
        self.events.append(Event(time.perf_counter() - self.since, tensor.nbytes))
        return Work(self, number)


class Work(NamedTuple):
    """A collective that has ended already."""

    silence: Silence
    number: int

    def wait(self) -> None:
        at = time.perf_counter() - self.silence.since
        self.silence.events.append(Event(at, awaited=self.number))


class Turns(Callback):
    """Gives each way, and silence, an iteration a round, in a new random order."""

    def __init__(self, rounds: int, size: float) -> None:
        # In silence, each gradient is by itself, so that its time is noted.
        self.sizes = {"at once": math.inf, "buckets": size, "silence": 1}
        draw = random.Random(0)  # the same in all processes
        self.plan = [name for _ in range(rounds + 1) for name in draw.sample([*self.sizes], 3)]
        self.seconds: dict[str, list[float]] = {name: [] for name in self.sizes}
        self.events: list[list[Event]] = []
        self.send = dist.all_reduce

    def on_train_batch_start(self, *_: Any) -> None:
        size = self.sizes[self.plan[0]]
        buckets.capacity = lambda: size  # type: ignore[assignment, return-value]
        dist.barrier()
        self.silence = Silence()
        dist.all_reduce = self.silence if self.plan[0] == "silence" else self.send
        self.since = time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        name = self.plan.pop(0)
        self.seconds[name].append(time.perf_counter() - self.since)
        if name == "silence":
            self.events.append(self.silence.events)
        dist.all_reduce = self.send
        trainer.should_stop = not self.plan


def inside(model: str, world: int, rounds: int, bucket_mb: float, file: Path) -> None:
    """Train in `world` processes, of which this is one; the first writes the times to `file`."""
    images, keys = MODELS[model]
    keys = [*keys, f"batch_size={images * world}", "total_kimg=1e6", "trainer=ddp", "logger=csv"]
    keys += [f"trainer.devices={world}", "trainer.accelerator=cpu", "precision=32-true"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [*keys, "metrics=quick", "run_dir=unused"])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    trainer: Any = make_trainer(cfg, file.parent, 0)
    turns = Turns(rounds, bucket_mb * 2**20)
    trainer.callbacks, trainer.loggers = [turns], []
    gan = sleeping() if model == "sleeping" else make(cfg.model)
    trainer.fit(gan, datamodule=make(cfg.data))
    size = sum(
        p.nbytes for name in gan.turns.networks for p in gan.get_submodule(name).parameters()
    )
    alone = []
    for _ in range(2):
        dist.barrier()
        start = time.perf_counter()
        dist.all_reduce(torch.zeros(size // 4))
        alone.append(time.perf_counter() - start)
    if trainer.is_global_zero:
        # The first round is a warm-up.
        seconds = {name: values[1:] for name, values in turns.seconds.items()}
        result = {"seconds": seconds, "events": turns.events[1:], "bytes": size}
        result["alone"] = min(alone)
        file.write_text(json.dumps(result))


# -- outside ---------------------------------------------------------------------------------------


def measure(model: str, world: int, mbit: int, args: argparse.Namespace) -> dict[str, Any]:
    """What `inside` found behind a link of so many Mbit/s."""
    args.folder.mkdir(parents=True, exist_ok=True)
    file = args.folder / f"{model}-{world}-{mbit}.json"
    slow = f"tc qdisc add dev lo root tbf rate {mbit}mbit burst 256kbit latency 400ms"
    inner = [sys.executable, __file__, "--inside", model, str(world)]
    inner += [str(args.rounds), str(args.bucket_mb), str(file)]
    script = f"ip link set lo up mtu 1500 && {slow if mbit else ':'} && exec {shlex.join(inner)}"
    subprocess.run(["unshare", "-n", "sh", "-c", script], check=True)
    return json.loads(file.read_text())


def compare(model: str, world: int, mbit: int, args: argparse.Namespace) -> dict[str, Any]:
    """Measure, and print what the model on paper says next to it."""
    found = measure(model, world, mbit, args)
    # All processes share the loopback: together, they send 2 (n - 1) times the bytes.
    per_byte = 2 * (world - 1) * 8 / (mbit * 1e6 * PAYLOAD) if mbit else 0.0
    mb, alone = found["bytes"] / 1e6, found["alone"]
    link = f"{mbit} Mbit/s" if mbit else "full speed"
    print(f"\n{model}, {world} processes, {link}: {mb:.1f} MB of gradients an iteration")
    print(f"  all-reduce alone: measured {alone:.2f} s, on paper {per_byte * found['bytes']:.2f} s")
    middle = {name: statistics.median(values) for name, values in found["seconds"].items()}
    print(f"  nothing sent: {middle['silence']:.3f} s")
    for way, size in zip(WAYS, (math.inf, args.bucket_mb * 2**20), strict=True):
        found[f"paper, {way}"] = paper = on_paper(found, size, middle["silence"], per_byte)
        print(f"  {way}: measured {middle[way]:.3f} s, on paper {paper:.3f} s")
    pairs = zip(found["seconds"]["at once"], found["seconds"]["buckets"], strict=True)
    ratio = statistics.median(b / a for a, b in pairs)
    paper = found["paper, buckets"] / found["paper, at once"]
    print(f"  buckets / at once: measured {ratio:.3f} (median of rounds), on paper {paper:.3f}")
    return found | {"model": model, "world": world, "mbit": mbit, "ratio": ratio}


def on_paper(
    found: dict[str, Any], size: float, seconds: float, per_byte: float, start_up: float = 0.0
) -> float:
    """Seconds of an iteration that lasts `seconds` in silence, with buckets of `size` bytes."""
    delays = []
    for lasted, events in zip(found["seconds"]["silence"], found["events"], strict=True):
        scaled = [Event(at * seconds / lasted, *what) for at, *what in events]
        delays.append(later(together(scaled, size), per_byte, start_up))
    return seconds + statistics.median(delays)


def project(found: dict[str, Any], args: argparse.Namespace) -> None:
    """Print the efficiency that the model on paper expects of many GPUs.

    Each has a link of its own, so a ring takes 2 (n - 1) / n * bytes / bandwidth, and 2 (n - 1)
    steps, which take time even with nothing to carry. The shape of an iteration is the measured
    one, without waiting, scaled to the time that a GPU takes.
    """
    seconds = args.iteration_ms / 1000
    print(f"\n{found['model']} on paper: {1000 * seconds:.0f} ms an iteration on one GPU,")
    print(f"{args.gbit:g} Gbit/s for each GPU, {args.step_us:g} us a step of the ring; efficiency:")
    fixed = f"{args.bucket_mb:g} MiB"
    print(f"  {'GPUs':>5} {'at once':>9} {fixed:>9} {'ganzoo':>9}")
    for world in (8, 16, 32, 64, 128, 256, 512):
        per_byte = 2 * (world - 1) / world * 8 / (args.gbit * 1e9)
        start_up = 2 * (world - 1) * args.step_us / 1e6
        shares = [
            seconds / on_paper(found, size, seconds, per_byte, start_up)
            for size in (math.inf, args.bucket_mb * 2**20, max(2**22, 2**16 * world))
        ]
        print(f"  {world:5} " + " ".join(f"{100 * share:7.1f} %" for share in shares))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--mbit", type=int, nargs="+", default=[100, 1000], help="0: full speed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bucket-mb", type=float, default=4, help="of a bucket, in MiB")
    parser.add_argument("--iteration-ms", type=float, default=50, help="one iteration on a GPU")
    parser.add_argument("--gbit", type=float, default=25, help="Gbit/s of a GPU's link")
    parser.add_argument("--step-us", type=float, default=5, help="latency of a step of the ring")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/ganzoo-benchmark"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--inside", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        model, world, rounds, bucket_mb, file = args.inside
        inside(model, int(world), int(rounds), float(bucket_mb), Path(file))
        return
    results = []
    for model in args.models:
        for world in args.processes:
            results += [compare(model, world, mbit, args) for mbit in args.mbit]
        project(results[-1], args)
    if args.json:
        args.json.write_text(json.dumps(results))


if __name__ == "__main__":
    main()
