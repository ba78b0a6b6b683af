"""What to watch in a GAN beside its losses."""

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from ganzoo.callbacks.trainer import data_of, loggers_of
from ganzoo.data.images import ImageData
from ganzoo.data.pixels import to_float
from ganzoo.data.reference import Reference, mixed
from ganzoo.distributed.strategy import gather_rows, rank, world_size
from ganzoo.engine.gan import GAN
from ganzoo.engine.kinds import FromSeeds, Translating, only_from_seeds
from ganzoo.errors import UserError
from ganzoo.schedules.images import crossed

log = logging.getLogger(__name__)

Judge = Callable[[Tensor, Tensor | None], Tensor]  # images, labels -> logits [N]


class DiscriminatorAccuracy(Callback):
    """How many images a discriminator tells rightly: of training, held out, and fakes.

    A discriminator that knows training images by heart takes them for real and held-out ones for
    fakes half of the time (Brock et al. 2019, section 4.2: over 98 % and 50 to 55 %). Logged as
    `accuracy/training`, `accuracy/held_out`, `accuracy/fakes`, shares of 1. Where a loss has no
    boundary between real and fake, it is the middle between the mean logits of training images and
    fakes. Augmentation is left out. Of a model that translates, the discriminators of both domains
    are watched, as `accuracy/A/training` and so on; fakes are then made of training images.

    Args:
        every_kimg: how often.
        num: images of each kind.
    """

    def __init__(self, every_kimg: float = 20.0, num: int = 500) -> None:
        if num < 2:
            raise UserError(f"callbacks.accuracy.num must be at least 2, not {num}.")
        self.every_kimg, self.num = every_kimg, num

    def on_train_start(self, trainer: L.Trainer, gan: GAN) -> None:
        data = data_of(trainer)
        self.reals = {name: {"training": self._some(of)} for name, of in data.domains.items()}
        try:
            for name, of in data.held_out().items():
                self.reals[name]["held_out"] = self._some(of)
        except UserError as error:
            log.info("accuracy: of training images and fakes only. %s", error)

    def on_train_batch_end(self, trainer: L.Trainer, gan: GAN, *_: Any) -> None:
        if not crossed(gan.images_before, gan.images_seen, self.every_kimg):
            return
        start = time.perf_counter()
        right: dict[str, float] = {}
        for domain in self.reals:
            prefix = f"accuracy/{domain}/" if domain else "accuracy/"
            right |= {f"{prefix}{name}": value for name, value in self._right(gan, domain).items()}
        for logger in loggers_of(trainer):
            logger.log_metrics(right, step=gan.images_seen)
        gan.control.maintenance_seconds += time.perf_counter() - start
        if trainer.is_global_zero:
            told = "  ".join(f"{k.partition('/')[2]} {100 * v:.0f} %" for k, v in right.items())
            log.info("discriminator is right at %.1f kimg: %s", gan.images_seen / 1000, told)

    def _some(self, data: ImageData) -> Reference:
        return Reference(data, self.num, mirror=False)

    def _right(self, gan: GAN, domain: str) -> dict[str, float]:
        """The shares of images of each kind that the discriminator of a domain tells rightly."""
        judge: Judge = partial(gan.logits_of, domain=domain)
        logits = {
            name: self._of_reals(gan, judge, reals) for name, reals in self.reals[domain].items()
        }
        logits["fakes"] = self._of_fakes(gan, judge, domain)
        boundary = gan.boundary
        if boundary is None:
            boundary = float(logits["training"].mean() + logits["fakes"].mean()) / 2
        right = {name: float((of > boundary).float().mean()) for name, of in logits.items()}
        return {**right, "fakes": 1 - right["fakes"]}

    def _of_reals(self, gan: GAN, judge: Judge, reals: Reference) -> Tensor:
        mine = range(rank(), reals.num_chunks, world_size())
        chunks = list(reals.chunks(mine, gan.device))
        if not chunks:
            return gather_rows(torch.empty(0, device=gan.device))
        images = torch.cat([to_float(chunk.images) for chunk in chunks])
        labels = (
            None
            if chunks[0].label is None
            else torch.cat([c.label for c in chunks if c.label is not None])
        )
        # Mixed, since neighbors are often of one class, which BatchNorm would take away.
        order = mixed(torch.arange(len(images)))
        return gather_rows(self._judged(gan, judge, images, labels, order))

    def _of_fakes(self, gan: GAN, judge: Judge, domain: str) -> Tensor:
        if isinstance(gan, Translating):
            images, labels = self._translations(gan, domain), None
        else:
            images, labels = self._samples(only_from_seeds(gan))
        return gather_rows(self._judged(gan, judge, images, labels, torch.arange(len(images))))

    def _samples(self, gan: FromSeeds) -> tuple[Tensor, Tensor | None]:
        seeds = list(range(rank(), self.num, world_size()))
        images = gan.sample(seeds) if seeds else torch.empty(0, device=gan.device)
        return images, gan.labels(seeds)

    def _translations(self, gan: Translating, domain: str) -> Tensor:
        """What training images of the other domain become in this one."""
        (other,) = self.reals.keys() - {domain}
        reals = self.reals[other]["training"]
        mine = range(rank(), reals.num_chunks, world_size())
        return torch.cat([
            torch.empty(0, device=gan.device),
            *(
                gan.translate_many(to_float(chunk.images), f"{other}to{domain}")
                for chunk in reals.chunks(mine, gan.device)
            ),
        ])  # fmt: skip

    def _judged(
        self, gan: GAN, judge: Judge, images: Tensor, labels: Tensor | None, order: Tensor
    ) -> Tensor:
        logits = [torch.empty(0, device=gan.device)]
        for part in order.split(64):
            given = None if labels is None else labels[part].to(gan.device)
            logits.append(judge(images[part.to(images.device)], given).float())
        return torch.cat(logits)
