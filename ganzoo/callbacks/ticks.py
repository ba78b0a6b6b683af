"""Losses, norms and speed: a line in the log and a row of numbers."""

import logging
import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from tqdm import tqdm

from ganzoo.callbacks.periods import due
from ganzoo.callbacks.trainer import data_of, loggers_of
from ganzoo.engine.gan import GAN
from ganzoo.engine.memory import peak_memory
from ganzoo.loggers.csv import read_rows
from ganzoo.pictures.curves import plot_curves

log = logging.getLogger(__name__)

GROUPS = {"loss": "losses", "score": "scores", "norm": "norms"}  # by the last word of a name
# by the last word of a name


class Ticks(Callback):
    """One line in `train.log` and one row for every logger each `every_kimg` thousand images.

    Losses and gradient norms are means over the tick; beside them the norms of all weights,
    images/s, sec/kimg, the share of the time that was spent waiting for data, and the peak memory.
    These are without the time of metrics, which is `maintenance`, in seconds. At the end
    `curves.png`.
    """

    def __init__(self, every_kimg: float | None = 1.0) -> None:
        self.every_kimg = every_kimg
        self.ticks, self.seconds = 0, 0.0  # so far, of all that the run was gone on with

    def state_dict(self) -> dict[str, Any]:
        return {"ticks": self.ticks, "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.ticks, self.seconds = state["ticks"], state["seconds"]

    def on_train_start(self, trainer: L.Trainer, gan: GAN) -> None:
        self._begin(trainer, gan)

    def on_train_batch_end(self, trainer: L.Trainer, gan: GAN, *_: Any) -> None:
        if due(gan, self.every_kimg):
            self._tick(trainer, gan)

    def on_train_end(self, trainer: L.Trainer, gan: GAN) -> None:
        if gan.images_seen > self._images:
            self._tick(trainer, gan)
        if trainer.is_global_zero:
            run_dir = Path(trainer.default_root_dir)
            plot_curves(read_curves(run_dir / "metrics.csv"), run_dir / "curves.png")

    def _begin(self, trainer: L.Trainer, gan: GAN) -> None:
        self._images, self._aside = gan.images_seen, gan.control.maintenance_seconds
        self._since = time.perf_counter()
        self._waited = data_of(trainer).waited

    def _tick(self, trainer: L.Trainer, gan: GAN) -> None:
        means = gan.report.drain(gan.device)
        images = gan.images_seen - self._images
        maintenance = gan.control.maintenance_seconds - self._aside
        seconds = time.perf_counter() - self._since - maintenance
        self.ticks, self.seconds = self.ticks + 1, self.seconds + seconds + maintenance
        speed = {
            "speed/images_per_second": images / seconds,
            "speed/sec_per_kimg": 1000 * seconds / images,
            "speed/data_wait_share": (data_of(trainer).waited - self._waited) / seconds,
            "speed/peak_memory_gib": peak_memory(gan.device) / 2**30,
        }
        norms = {f"{name}_weight_norm": norm for name, norm in gan.turns.weight_norms().items()}
        rates = {f"lr/{name}": rate for name, rate in gan.turns.learning_rates().items()}
        noted = {grouped(name): value for name, value in {**means, **norms}.items()}
        for logger in loggers_of(trainer):
            logger.log_metrics({**noted, **rates, **speed}, step=gan.images_seen)
        if trainer.is_global_zero:
            left = (gan.total_images - gan.images_seen) * seconds / images
            log.info(
                "tick %d  kimg %.1f  minibatch %d  time %s  sec/tick %.1f  images/s %.0f  "
                "sec/kimg %.2f  maintenance %.1f  data wait %.1f %%  memory %.2f GiB  left %s  %s",
                self.ticks,
                gan.images_seen / 1000,
                (gan.images_seen - gan.images_before) // gan.discriminator_steps,
                tqdm.format_interval(self.seconds),
                seconds,
                *list(speed.values())[:2],
                maintenance,
                100 * speed["speed/data_wait_share"],
                speed["speed/peak_memory_gib"],
                tqdm.format_interval(max(0, left)),
                "  ".join(f"{name} {mean:.3f}" for name, mean in means.items()),
            )
        self._begin(trainer, gan)


def grouped(name: str) -> str:
    """What loggers call a number that a model notes: wandb and TensorBoard make a group of what
    comes before a slash. One of no known kind keeps its name.
    """
    group = GROUPS.get(name.rpartition("_")[2])
    return f"{group}/{name}" if group else name


def read_curves(path: Path) -> dict[str, tuple[list[float], list[float]]]:
    """Losses, norms, metrics of a `metrics.csv`: name -> (thousands of images, values)."""
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for row in read_rows(path):
        for name, value in row.items():
            loss = name.endswith(("_loss", "_score", "_grad_norm", "_weight_norm"))
            aside = name.endswith(("_std", "/seconds", "/share_of_time"))
            if value and (loss or (name.startswith("metrics/") and not aside)):
                x, y = curves.setdefault(name, ([], []))
                x.append(int(row["images_seen"]) / 1000)
                y.append(float(value))
    return curves
