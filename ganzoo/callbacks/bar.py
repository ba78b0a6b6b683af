"""A progress bar."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from tqdm import tqdm

from ganzoo.engine.gan import GAN


class ProgressBar(Callback):
    """A bar with images, images/s and the time left; silent without a terminal."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None

    def on_train_start(self, trainer: L.Trainer, gan: GAN) -> None:
        self._bar = tqdm(
            total=gan.total_images,
            initial=gan.images_seen,
            unit=" images",
            unit_scale=True,
            dynamic_ncols=True,
            # tqdm takes None for: only on a terminal
            disable=None if trainer.is_global_zero and not gan.control.dry else True,
        )

    def on_train_batch_end(self, trainer: L.Trainer, gan: GAN, *_: Any) -> None:
        assert self._bar is not None
        self._bar.update(gan.images_seen - gan.images_before)

    def on_train_end(self, trainer: L.Trainer, gan: GAN) -> None:
        self._close()

    def on_exception(self, trainer: L.Trainer, gan: GAN, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
