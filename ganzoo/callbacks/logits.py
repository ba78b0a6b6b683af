"""Pictures of what the discriminator makes of single images."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from PIL import Image
from torch import Tensor

from ganzoo.callbacks.periods import due, picture_name, picture_period
from ganzoo.callbacks.trainer import data_of, last_pictures, loggers_of
from ganzoo.config.values import Count, NotNegative
from ganzoo.data.source import some
from ganzoo.distributed.batchnorm import local_batchnorm
from ganzoo.engine.gan import GAN
from ganzoo.engine.kinds import Translating, only_from_seeds
from ganzoo.pictures.grids import titled_rows
from ganzoo.pictures.saving import save_png
from ganzoo.pictures.sheets import class_name

Images = tuple[Tensor, Tensor | None]  # images and their labels, if there are any


class LogitGrid(Callback):
    """`logits/<kimg>.png`: reals and fakes, each under its logit.

    The training images and the seeds are the same each time. Fakes are of the raw generator, not of
    its average, because the discriminator learns from those. Logits are as in training (see
    `GAN.logits_of`: BatchNorm normalizes the reals together and the fakes together) but without
    augmentation, and the discriminator stays unchanged. With two domains there are reals of both,
    and their translations.

    Args:
        every_kimg: thousands of images between two pictures; there is one at the start and at the
            end as well. None for the model's own period.
        num: number of images of each kind.
    """

    def __init__(self, every_kimg: NotNegative | None = 10.0, num: Count = 8) -> None:
        self.every_kimg, self.num = every_kimg, num
        self.reals: dict[str, Images] = {}  # by domain
        self._written_at = -1

    def on_train_start(self, trainer: L.Trainer, gan: GAN) -> None:
        if not trainer.is_global_zero or gan.control.dry:
            return
        for domain, data in data_of(trainer).domains.items():
            self.reals[domain] = data.plain(some(len(data.source), self.num), gan.device)
        if gan.images_seen == 0:
            self._write(trainer, gan)

    def on_train_batch_end(self, trainer: L.Trainer, gan: GAN, *_: Any) -> None:
        if due(gan, picture_period(gan, self.every_kimg)):
            self._write(trainer, gan)

    def on_train_end(self, trainer: L.Trainer, gan: GAN) -> None:
        if gan.trained:
            with last_pictures(gan, "the last picture of logits"):
                self._write(trainer, gan)

    def _write(self, trainer: L.Trainer, gan: GAN) -> None:
        if not self.reals or self._written_at == gan.images_seen:
            return
        self._written_at = gan.images_seen
        picture = self._picture(gan)
        folder = Path(trainer.default_root_dir) / "logits"
        save_png(picture, folder / f"{picture_name(gan, self.every_kimg)}.png")
        for logger in loggers_of(trainer):
            logger.log_picture("pictures/logits", picture, gan.images_seen)

    def _picture(self, gan: GAN) -> Image.Image:
        rows = {}
        with local_batchnorm(gan.discriminator):  # only this process is here
            for domain, kind, (images, labels) in self._images(gan):
                logits = gan.logits_of(images, labels, domain)
                titles = [f"{logit:+.3g}" for logit in logits.tolist()]
                if gan.classes and labels is not None:
                    names = [class_name(gan, label) for label in labels.tolist()]
                    titles = [f"{t}\n{name}" for t, name in zip(titles, names, strict=True)]
                rows[f"{kind} {domain}".strip()] = (images, titles)
        return titled_rows(rows)

    def _images(self, gan: GAN) -> Iterator[tuple[str, str, Images]]:
        """Domain, kind, images and labels of each row."""
        for domain, reals in self.reals.items():
            yield domain, "real", reals
            if isinstance(gan, Translating):
                (other,) = self.reals.keys() - {domain}
                direction = f"{other}to{domain}"
                fakes = gan.translate_many(self.reals[other][0], direction, raw=True)
                yield domain, "fake", (fakes, None)
            else:
                model, seeds = only_from_seeds(gan), list(range(self.num))
                labels = model.labels(seeds)
                labels = None if labels is None else labels.to(gan.device)
                yield domain, "fake", (model.sample(seeds, raw=True), labels)
