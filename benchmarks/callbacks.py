"""The cost of everything besides training: each callback at its own interval, and its logging.

Times the hooks of every callback and the calls of every logger in one run with short intervals, and
computes from that what they cost at the configured intervals.

    python benchmarks/callbacks.py              # experiment=dcgan_64 data=emoji; wandb offline
    python benchmarks/callbacks.py experiment=biggan_emoji logger=csv
"""

import argparse
import os
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra import compose, initialize_config_dir
from lightning.pytorch.callbacks import Callback
from watching import Moment, now, since

from ganzoo.config import CONF, make
from ganzoo.data import choosing  # noqa: F401  defines ${classes:...}
from ganzoo.engine.gan import GAN
from ganzoo.train import describe, make_trainer

LOGGING = ("log_metrics", "log_picture", "log_facts", "log_checkpoint")
METRICS = "metrics"  # told apart from the rest


def plus(a: Moment, b: Moment) -> Moment:
    return a[0] + b[0], a[1] + b[1]


class Clock:
    """What the hooks of callbacks and the calls of loggers take.

    Attributes:
        events: of each callback at the iterations where it has something to do, and how much of
            that is logging.
        idle: of all hooks at an iteration without anything to do.
        once: of what comes once in a run.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.logged: Moment = (0.0, 0.0)
        self.events: dict[str, list[tuple[Moment, Moment]]] = defaultdict(list)
        self.idle: list[Moment] = []
        self.once: dict[str, Moment] = {}
        self.busy = False  # whether this iteration is one where all callbacks have something to do

    def watch_logger(self, logger: Any) -> None:
        for name in LOGGING:
            setattr(logger, name, self._logging(getattr(logger, name)))

    def watch(self, name: str, callback: Callback) -> None:
        callback.on_train_batch_end = self._event(name, callback.on_train_batch_end)  # type: ignore[method-assign]
        for hook in ("on_train_start", "on_train_end"):
            setattr(callback, hook, self.only_once(f"{name} {hook}", getattr(callback, hook)))

    def only_once(self, name: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        def outer(*args: Any, **keys: Any) -> Any:
            start = now(self.device)
            found = inner(*args, **keys)
            self.once[name] = since(start, self.device)
            return found

        return outer

    def _logging(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        def outer(*args: Any, **keys: Any) -> None:
            start = now(self.device)
            inner(*args, **keys)
            self.logged = plus(self.logged, since(start, self.device))

        return outer

    def _event(self, name: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        def outer(*args: Any, **keys: Any) -> None:
            self.logged = (0.0, 0.0)
            start = now(self.device)
            inner(*args, **keys)
            took = since(start, self.device)
            if self.busy:
                self.events[name].append((took, self.logged))
            else:
                self.idle.append(took)

        return outer


class Begin(Callback):
    """Comes before the callbacks that are watched: times iterations, and knows which are busy."""

    def __init__(self, clock: Clock, between: int, checks: int) -> None:
        self.clock, self.between, self.checks = clock, between, checks
        self.iterations: list[Moment] = []
        self.start: Moment = (0.0, 0.0)

    def on_train_batch_end(self, trainer: L.Trainer, gan: GAN, *_: Any) -> None:  # type: ignore[override]
        self.iterations.append(since(self.start, self.clock.device))
        self.clock.busy = len(self.iterations) % self.between == 0
        trainer.should_stop = len(self.iterations) >= self.between * self.checks


class End(Callback):
    """Comes after them."""

    def __init__(self, begin: Begin) -> None:
        self.begin = begin

    def on_train_start(self, trainer: L.Trainer, gan: GAN) -> None:  # type: ignore[override]
        self.begin.start = now(gan.device)

    def on_train_batch_end(self, trainer: L.Trainer, gan: GAN, *_: Any) -> None:  # type: ignore[override]
        self.begin.start = now(gan.device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("keys", nargs="*", help="KEY=VALUE as for ganzoo.train")
    parser.add_argument(
        "--checks", type=int, default=3, help="number of checks; the first does not count"
    )
    parser.add_argument("--between", type=int, default=8, help="iterations between two checks")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    os.environ["WANDB_MODE"] = "offline"
    keys = args.keys or ["experiment=dcgan_64", "data=emoji"]
    with (
        tempfile.TemporaryDirectory() as folder,
        initialize_config_dir(str(CONF), version_base="1.3"),
    ):
        cfg = compose("train", ["hydra.job.num=0", f"run_dir={folder}", *keys])
        gan: GAN = make(cfg.model)
        images = cfg.batch_size * gan.discriminator_steps
        trainer = make_trainer(cfg, Path(folder), 0)
        clock = Clock(trainer.strategy.root_device)
        preflight, *watched = trainer.callbacks  # type: ignore[attr-defined]
        names = [name for name, callback in cfg.callbacks.items() if callback]
        kimg = {}
        for name, callback in zip(names, watched, strict=True):
            kimg[name] = interval(callback, gan)
            if hasattr(callback, "every_kimg"):
                callback.every_kimg = args.between * images / 1000
            clock.watch(name, callback)
        begin = Begin(clock, args.between, args.checks)
        trainer.callbacks = [preflight, begin, *watched, End(begin)]  # type: ignore[attr-defined]
        for logger in trainer.loggers:
            clock.watch_logger(logger)
            start = clock.only_once("start of the loggers", logger.log_hyperparams)
            start({"model": str(cfg.model)})
        trainer.fit(gan, datamodule=make(cfg.data))
        for logger in trainer.loggers:
            clock.only_once("end of the loggers", logger.finalize)("success")
    report(gan, clock, begin.iterations, kimg, images)


def interval(callback: Callback, gan: GAN) -> float | None:
    """Thousands of images between two events of a callback; None where it has none."""
    if not hasattr(callback, "every_kimg"):
        return None
    if callback.every_kimg is not None:
        return float(callback.every_kimg)
    if type(callback).__name__ == "Sentinel":
        return min(20.0, gan.total_images / 50_000)
    return gan.tick_kimg(0)


def median(moments: list[Moment]) -> Moment:
    wall, cpu = (statistics.median(part) for part in zip(*moments, strict=True))
    return wall, cpu


def report(
    gan: GAN, clock: Clock, iterations: list[Moment], kimg: dict[str, float | None], images: int
) -> None:
    """A table by callback, the most expensive first."""
    iteration = median(iterations[len(iterations) // 4 :])
    per_kimg = 1000 / images
    training = iteration[0] * per_kimg, iteration[1] * per_kimg
    idle = median(clock.idle)
    hooks = len(kimg)
    costs: dict[str, tuple[Moment, Moment]] = {}  # a thousand images: all, and of that logging
    for name, every in kimg.items():
        if every is None:
            continue
        took = median([took for took, _ in clock.events[name][1:]])
        logged = median([logged for _, logged in clock.events[name][1:]])
        costs[name] = (
            (took[0] / every, took[1] / every),
            (logged[0] / every, logged[1] / every),
        )
    costs["idle hooks"] = (
        (hooks * idle[0] * per_kimg, hooks * idle[1] * per_kimg),
        (0.0, 0.0),
    )
    whole = [training[i] + sum(cost[i] for cost, _ in costs.values()) for i in (0, 1)]
    print(f"{describe(gan)}; batch {images}")
    print(f"one iteration: {1000 * iteration[0]:.1f} ms, CPU {1000 * iteration[1]:.1f} ms")
    print(
        f"{'callback':12} {'every':>9} {'an event':>10} {'of that':>9} {'time':>8} {'CPU time':>9}"
    )
    print(f"{'':12} {'kimg':>9} {'':>10} {'logging':>9}")
    for name, (cost, logged) in sorted(costs.items(), key=lambda item: -item[1][0][0]):
        period = kimg.get(name) or images / 1000
        print(
            f"{name:12} {period:9g} {1000 * cost[0] * period:7.1f} ms "
            f"{1000 * logged[0] * period:6.1f} ms "
            f"{100 * cost[0] / whole[0]:6.2f} % {100 * cost[1] / whole[1]:7.2f} %"
        )
    for title, chosen in (
        ("metrics", [METRICS]),
        ("all the rest", [name for name in costs if name != METRICS]),
        ("all", list(costs)),
    ):
        shares = [
            100 * sum(costs[n][0][i] for n in chosen if n in costs) / whole[i] for i in (0, 1)
        ]
        print(f"{title:43} {shares[0]:6.2f} % {shares[1]:7.2f} %")
    logged_share = 100 * sum(logged[0] for _, logged in costs.values()) / whole[0]
    print(f"{'of which logging':43} {logged_share:6.2f} %")
    told = ", ".join(
        f"{name} {wall:.1f} s" for name, (wall, _) in clock.once.items() if wall >= 0.1
    )
    print(f"once in a run: {told}")


if __name__ == "__main__":
    main()
