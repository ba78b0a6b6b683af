"""What the discriminator thinks of some images, for a person to look at."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from PIL import Image
from torch import Tensor

from ganzoo.callbacks.accuracy import Judge
from ganzoo.callbacks.periods import due, kimg_name
from ganzoo.callbacks.signs import shown, some
from ganzoo.callbacks.trainer import data_of, loggers_of
from ganzoo.distributed.strategy import local_batchnorm
from ganzoo.engine.gan import GAN
from ganzoo.engine.kinds import Translating, only_from_seeds
from ganzoo.errors import UserError
from ganzoo.pictures.grids import titled_rows
from ganzoo.pictures.sheets import class_name

Part = tuple[Tensor, Tensor | None]  # images and their labels, if there are any


class ScorePanel(Callback):
    """`scores/<kimg>.png`: reals and fakes, each under its own logit of the discriminator.

    The same training images and the same seeds again and again. Fakes are of the generator as it
    is, not of its average, since that is what the discriminator learns from. It judges as it does
    in training (see `GAN.logits_of`: where it has BatchNorm, reals among each other and fakes among
    each other), without augmentation, and is afterwards what it was. Of a model that translates
    there are reals of both domains and what they become.

    Args:
        every_kimg: how often, and at the start and the end.
        num: images of each kind.
    """

    def __init__(self, every_kimg: float | None = 10.0, num: int = 8) -> None:
        if num < 2:
            raise UserError(f"callbacks.scores.num must be at least 2, not {num}.")
        self.every_kimg, self.num = every_kimg, num
        self.reals: dict[str, Part] = {}  # by domain, "" where there are no domains
        self._written_at = -1

    def on_train_start(self, trainer: L.Trainer, gan: GAN) -> None:
        if not trainer.is_global_zero or trainer.should_stop:  # a dry run
            return
        data = data_of(trainer)
        for domain, of in data.domains.items():
            images, labels = shown(of, some(len(of.source), self.num), gan.device)
            self.reals[domain] = images, None if labels is None else labels.to(gan.device)
        if gan.images_seen == 0:
            self._write(trainer, gan)

    def on_train_batch_end(self, trainer: L.Trainer, gan: GAN, *_: Any) -> None:
        if due(gan, self.every_kimg):
            self._write(trainer, gan)

    def on_train_end(self, trainer: L.Trainer, gan: GAN) -> None:
        if gan.images_seen >= gan.total_images:
            self._write(trainer, gan)

    def _write(self, trainer: L.Trainer, gan: GAN) -> None:
        if not self.reals or self._written_at == gan.images_seen:
            return
        self._written_at = gan.images_seen
        picture = self._picture(gan)
        folder = Path(trainer.default_root_dir) / "scores"
        folder.mkdir(exist_ok=True)
        name = kimg_name(gan.images_seen, self.every_kimg, gan.total_images / 1000)
        picture.save(folder / f"{name}.png")
        for logger in loggers_of(trainer):
            logger.log_picture("pictures/scores", picture, gan.images_seen)

    def _picture(self, gan: GAN) -> Image.Image:
        rows = {}
        with local_batchnorm(gan.discriminator):  # this process is alone here
            for domain, kind, (images, labels) in self._parts(gan):
                judge: Judge = partial(gan.logits_of, domain=domain)
                told = [f"{score:+.3g}" for score in judge(images, labels).tolist()]
                if gan.classes and labels is not None:
                    names = [class_name(gan, label) for label in labels.tolist()]
                    told = [f"{score}\n{name}" for score, name in zip(told, names, strict=True)]
                rows[f"{kind} {domain}".strip()] = (images, told)
        return titled_rows(rows)

    def _parts(self, gan: GAN) -> Iterator[tuple[str, str, Part]]:
        """Domain, kind, images and labels of each row."""
        for domain, reals in self.reals.items():
            yield domain, "real", reals
            if isinstance(gan, Translating):
                (other,) = self.reals.keys() - {domain}
                images = gan.translate_many(self.reals[other][0], f"{other}to{domain}", raw=True)
                yield domain, "fake", (images, None)
            else:
                seeds = list(range(self.num))
                model = only_from_seeds(gan)
                labels = model.labels(seeds)
                labels = None if labels is None else labels.to(gan.device)
                yield domain, "fake", (model.sample(seeds, raw=True), labels)
