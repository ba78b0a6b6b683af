"""The cost of the watching callbacks: singular values, the sentinel, the discriminator's accuracy.

Iterations and checks take turns in one run. The medians give the share of time that each check
takes at its own interval.

    python benchmarks/watching.py                                  # the default run
    python benchmarks/watching.py experiment=biggan_cifar10 data=synthetic
"""

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch.callbacks import Callback

from ganzoo.config import CONF, make
from ganzoo.data import choosing  # noqa: F401  defines ${classes:...}
from ganzoo.engine.gan import GAN
from ganzoo.train import describe, make_trainer

WATCHING = ("spectra", "sentinel", "accuracy")
Moment = tuple[float, float]  # seconds on the wall clock, and of this process on all cores


def now(device: torch.device) -> Moment:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter(), time.process_time()


def since(moment: Moment, device: torch.device) -> Moment:
    wall, cpu = now(device)
    return wall - moment[0], cpu - moment[1]


class Probe(Callback):
    """Times iterations, and after every `between` of them a check of each callback.

    Args:
        watching: the callbacks by name.
        checks: number of checks; one more comes first and does not count.
    """

    def __init__(self, watching: dict[str, Any], checks: int, between: int) -> None:
        self.watching, self.checks, self.between = watching, checks, between
        self.times: dict[str, list[Moment]] = defaultdict(list)
        self.done = 0

    def on_train_start(self, trainer: L.Trainer, gan: GAN) -> None:  # type: ignore[override]
        for callback in self.watching.values():
            callback.every_kimg = 1e9  # they check when they are told to
        self.start = now(gan.device)

    def on_train_batch_end(self, trainer: L.Trainer, gan: GAN, *_: Any) -> None:  # type: ignore[override]
        self.times["iteration"].append(since(self.start, gan.device))
        if len(self.times["iteration"]) % self.between == 0:
            for name, callback in self.watching.items():
                start = now(gan.device)
                check(name, callback, trainer, gan)
                if self.done:
                    self.times[name].append(since(start, gan.device))
            self.done += 1
            trainer.should_stop = self.done > self.checks
        self.start = now(gan.device)


def check(name: str, callback: Any, trainer: L.Trainer, gan: GAN) -> None:
    if name == "accuracy":
        before, callback.every_kimg = callback.every_kimg, 1e-3
        callback.on_train_batch_end(trainer, gan)
        callback.every_kimg = before
        return
    if name == "sentinel":
        callback._check(trainer, gan)
    else:
        callback._measure(trainer, gan)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("keys", nargs="*", help="KEY=VALUE as for ganzoo.train")
    parser.add_argument("--checks", type=int, default=5, help="number of checks")
    parser.add_argument("--between", type=int, default=20, help="iterations between two checks")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with (
        tempfile.TemporaryDirectory() as folder,
        initialize_config_dir(str(CONF), version_base="1.3"),
    ):
        cfg = compose("train", ["logger=none", f"run_dir={folder}", *args.keys])
        names = [name for name in WATCHING if cfg.callbacks.get(name)]
        watching = {name: make(cfg.callbacks[name]) for name in names}
        cfg.callbacks = {}
        gan: GAN = make(cfg.model)
        gan.config = {"data": {"source": {**cfg.data.source}}}
        kimg = {name: callback.every_kimg for name, callback in watching.items()}
        kimg["sentinel"] = kimg.get("sentinel") or min(20.0, gan.total_images / 50_000)
        probe = Probe(watching, args.checks, args.between)
        trainer = make_trainer(cfg, Path(folder), 0)
        trainer.callbacks = [*trainer.callbacks, *watching.values(), probe]  # type: ignore[attr-defined]
        trainer.fit(gan, datamodule=make(cfg.data))
    images = cfg.batch_size * gan.discriminator_steps
    report(gan, probe.times, kimg, images)


def report(gan: GAN, times: dict[str, list[Moment]], kimg: dict[str, float], images: int) -> None:
    """Medians, and shares of the time."""
    warm = times["iteration"][len(times["iteration"]) // 4 :]
    iteration = [statistics.median(part) for part in zip(*warm, strict=True)]
    print(f"{describe(gan)}; batch {images}")
    print(f"one iteration: {1000 * iteration[0]:.1f} ms, CPU {1000 * iteration[1]:.1f} ms")
    for name in times:
        if name == "iteration":
            continue
        wall, cpu = (statistics.median(part) for part in zip(*times[name], strict=True))
        its = 1000 * kimg[name] / images
        shares = [x / (x + its * it) for x, it in zip((wall, cpu), iteration, strict=True)]
        print(
            f"{name:9} every {kimg[name]:g} kimg ({its:.0f} iterations): {1000 * wall:.0f} ms, "
            f"CPU {1000 * cpu:.0f} ms; {100 * shares[0]:.2f} % of the time, "
            f"{100 * shares[1]:.2f} % of the CPU's"
        )


if __name__ == "__main__":
    main()
