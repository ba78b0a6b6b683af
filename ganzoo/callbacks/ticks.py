"""Losses, norms and speed: a line in the log and a row of numbers."""

import logging
import time
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from tqdm import tqdm

from ganzoo.callbacks.periods import due
from ganzoo.callbacks.trainer import data_of
from ganzoo.config.values import NotNegative
from ganzoo.engine.gan import GAN
from ganzoo.engine.memory import peak_memory

log = logging.getLogger(__name__)


class Ticks(Callback):
    """One line in `train.log` and one row for every logger.

    Losses, logits and gradient norms are means since the last tick. Speed does not count the time
    of metrics and the like, which is logged as `maintenance`, in seconds.

    Args:
        every_kimg: thousands of images between two ticks; None for the model's own period.
    """

    def __init__(self, every_kimg: NotNegative | None = 1.0) -> None:
        self.every_kimg = every_kimg
        self.ticks, self.seconds = 0, 0.0  # so far, including the parts of the run before a resume

    def state_dict(self) -> dict[str, Any]:
        return {"ticks": self.ticks, "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.ticks, self.seconds = state["ticks"], state["seconds"]

    def on_train_start(self, trainer: L.Trainer, gan: GAN) -> None:
        self._begin(trainer, gan)

    def on_train_batch_end(self, trainer: L.Trainer, gan: GAN, *_: Any) -> None:
        if due(gan, self.every_kimg) or gan.trained:  # before the last checkpoint
            self._tick(trainer, gan)

    def on_train_end(self, trainer: L.Trainer, gan: GAN) -> None:
        if gan.images_seen > self._images:
            self._tick(trainer, gan)

    def _begin(self, trainer: L.Trainer, gan: GAN) -> None:
        self._images, self._maintenance = gan.images_seen, gan.control.maintenance_seconds
        self._since = time.perf_counter()
        self._waited = data_of(trainer).waited

    def _tick(self, trainer: L.Trainer, gan: GAN) -> None:
        means = gan.report.drain(gan.device)
        images = gan.images_seen - self._images
        maintenance = gan.control.maintenance_seconds - self._maintenance
        seconds = time.perf_counter() - self._since - maintenance
        self.ticks, self.seconds = self.ticks + 1, self.seconds + seconds + maintenance
        speed = {
            "speed/images_per_second": images / seconds,
            "speed/sec_per_kimg": 1000 * seconds / images,
            "speed/data_wait_share": (data_of(trainer).waited - self._waited) / seconds,
            "speed/peak_memory_gib": peak_memory(gan.device) / 2**30,
        }
        norms = {f"weight_norms/{k}": norm for k, norm in gan.turns.weight_norms().items()}
        rates = {f"lr/{k}": rate for k, rate in gan.turns.learning_rates().items()}
        # Listeners already know the means, number by number.
        numbers = {**means, **norms, **rates, **speed}
        for logger in trainer.loggers:
            logger.log_metrics(numbers, step=gan.images_seen)
        trainer.callback_metrics.update({k: torch.tensor(v) for k, v in numbers.items()})
        if trainer.is_global_zero:
            left = max(0, (gan.total_images - gan.images_seen) * seconds / images)
            log.debug(  # a person sees the shorter line of the progress bar
                "tick %d  kimg %.1f  time %s  left %s  maintenance %.1f  %s",
                self.ticks,
                gan.images_seen / 1000,
                tqdm.format_interval(self.seconds),
                tqdm.format_interval(left),
                maintenance,
                "  ".join(f"{name} {number:.4g}" for name, number in numbers.items()),
            )
        self._begin(trainer, gan)
