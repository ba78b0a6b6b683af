"""Checkpoints of a run: at regular intervals, between its phases, and before a signal stops it."""

import logging
import shutil
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from ganzoo.callbacks.periods import due, kimg_name, picture_name
from ganzoo.callbacks.trainer import loggers_of
from ganzoo.config.values import NotNegative
from ganzoo.distributed.collectives import largest
from ganzoo.engine import stopping
from ganzoo.engine.gan import GAN
from ganzoo.engine.saving import checkpoint_bytes

log = logging.getLogger(__name__)


class SaveLast(Callback):
    """Writes `last.ckpt` at regular intervals, at the end, and before a signal stops the run.

    On SIGTERM, Ctrl-C and SIGUSR1 the iteration finishes first, and all processes stop after the
    same iteration; a Ctrl-C after another signal does not wait.

    Args:
        every_kimg: thousands of images between two checkpoints; None for the model's own period.
    """

    def __init__(self, every_kimg: NotNegative | None = 10.0) -> None:
        self.every_kimg = every_kimg
        self._saved_at = -1

    def on_train_start(self, trainer: L.Trainer, gan: GAN) -> None:
        if gan.trained:
            self._saved_at = -1  # an evaluation that is made up for belongs into `last.ckpt`
            return
        stopping.after_the_iteration(gan.control)
        self._saved_at = gan.images_seen

    def on_train_batch_end(self, trainer: L.Trainer, gan: GAN, *_: Any) -> None:
        gan.control.savable = True  # the other callbacks have done their part
        if number := largest(gan.control.signal, gan.device):
            gan.control.stopped_by = number
            trainer.should_stop = True
        elif gan.trained or due(gan, self.every_kimg):
            self._save(trainer, gan)
            if gan.trained:
                stopping.at_once()  # what is left can be repeated

    def on_train_end(self, trainer: L.Trainer, gan: GAN) -> None:
        self._save(trainer, gan)

    def on_exception(self, trainer: L.Trainer, gan: GAN, exception: BaseException) -> None:
        # Between two iterations the state is sound, for example if a file could not be read. After
        # an error of a callback, a resumed run repeats what the other callbacks had yet to do.
        # Several processes may have failed at different moments.
        alone = trainer.world_size == 1 and trainer.training
        if alone and gan.control.savable and self._saved_at >= 0:
            try:
                self._save(trainer, gan)
            except Exception as error:
                log.warning("%s", error)

    def _save(self, trainer: L.Trainer, gan: GAN) -> None:
        if self._saved_at == gan.images_seen or gan.control.go_back_to is not None:
            return
        if gan.control.dry and gan.trained:  # of a complete run, a dry run changes nothing
            return
        gan.report.check_finite()  # a checkpoint must not hold NaN
        self._saved_at = gan.images_seen  # even if it fails, since it would fail again
        path = Path(trainer.default_root_dir) / "last.ckpt"
        save_checkpoint(trainer, path, gan.images_seen)
        gan.control.last_checkpoint = f"{path} ({gan.images_seen:,} images)"


class SaveStages(Callback):
    """`stages/<kimg>.ckpt` at the end of every phase of a model that has several."""

    def on_train_batch_end(self, trainer: L.Trainer, gan: GAN, *_: Any) -> None:
        if gan.stage(gan.images_before) != gan.stage(gan.images_seen):
            _save_numbered(trainer, gan, "stages", kimg_name(gan.images_seen, 0.5))


class Snapshots(Callback):
    """`snapshots/<kimg>.ckpt` at regular intervals, all of which stay on the disk.

    Args:
        every_kimg: thousands of images between two snapshots; None for the model's own period, 0
            for none.
    """

    def __init__(self, every_kimg: NotNegative | None = 0) -> None:
        self.every_kimg = every_kimg

    def on_train_start(self, trainer: L.Trainer, gan: GAN) -> None:
        if not trainer.is_global_zero or not self.every_kimg:
            return
        left = max(0, gan.total_images - gan.images_seen) / 1000 / self.every_kimg
        need = round(left) * checkpoint_bytes(gan)
        free = shutil.disk_usage(trainer.default_root_dir).free
        if need > free:
            log.warning(
                "the disk has %.1f GiB left, and snapshots would need %.1f GiB: raise "
                "callbacks.snapshots.every_kimg",
                free / 2**30,
                need / 2**30,
            )

    def on_train_batch_end(self, trainer: L.Trainer, gan: GAN, *_: Any) -> None:
        if due(gan, self.every_kimg):
            _save_numbered(trainer, gan, "snapshots", picture_name(gan, self.every_kimg))


def _save_numbered(trainer: L.Trainer, gan: GAN, folder: str, name: str) -> None:
    gan.report.check_finite()
    path = Path(trainer.default_root_dir) / folder / f"{name}.ckpt"
    save_checkpoint(trainer, path, gan.images_seen)


def save_checkpoint(trainer: L.Trainer, path: Path, images_seen: int) -> None:
    """Write a checkpoint and hand it to the loggers. All processes call it."""
    trainer.save_checkpoint(path)
    for logger in loggers_of(trainer):
        logger.log_checkpoint(path, images_seen)
