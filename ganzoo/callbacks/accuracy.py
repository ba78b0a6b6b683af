"""How often the discriminator is right."""

import logging
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from ganzoo.callbacks.trainer import data_of, declare_numbers, log_numbers, maintenance
from ganzoo.config.values import Count, NotNegative
from ganzoo.data.pixels import to_float
from ganzoo.data.reference import Reference, mixed
from ganzoo.distributed.collectives import gather_rows, rank, world_size
from ganzoo.engine.gan import GAN
from ganzoo.engine.kinds import Translating, only_from_seeds
from ganzoo.errors import UserError
from ganzoo.schedules.images import crossed

log = logging.getLogger(__name__)


class DiscriminatorAccuracy(Callback):
    """Shares of training images, held-out images and fakes that the discriminator gets right.

    A discriminator that has memorized the training images takes them for real, and half of the
    held-out images for fake (Brock et al. 2019, section 4.2: over 98 % and 50 to 55 %). Logged as
    `accuracy/training`, `accuracy/held_out` and `accuracy/fakes`. If the loss has no boundary
    between real and fake, it is halfway between the mean logits of training images and of fakes.
    Images are not augmented. With two domains the discriminators of both are measured, as
    `accuracy/A/training` and so on; fakes are then translations of training images.

    Args:
        every_kimg: thousands of images between two measurements.
        num: number of images of each kind.
    """

    def __init__(self, every_kimg: NotNegative = 20.0, num: Count = 500) -> None:
        self.every_kimg, self.num = every_kimg, num

    def on_train_start(self, trainer: L.Trainer, gan: GAN) -> None:
        data = data_of(trainer)
        self.reals = {
            domain: {"training": Reference(images, self.num, mirror=False)}
            for domain, images in data.domains.items()
        }
        try:
            for domain, images in data.held_out().items():
                self.reals[domain]["held_out"] = Reference(images, self.num, mirror=False)
        except UserError as error:
            log.info("accuracy: only on training images and fakes. %s", error)
        for domain, kinds in self.reals.items():
            prefix = f"accuracy/{domain}/" if domain else "accuracy/"
            declare_numbers(trainer, [f"{prefix}{kind}" for kind in (*kinds, "fakes")])

    def on_train_batch_end(self, trainer: L.Trainer, gan: GAN, *_: Any) -> None:
        if not crossed(gan.images_before, gan.images_seen, self.every_kimg):
            return
        accuracies: dict[str, float] = {}
        with maintenance(gan, "measuring the accuracy of the discriminator"):
            for domain in self.reals:
                prefix = f"{domain}/" if domain else ""
                accuracies |= {f"{prefix}{k}": v for k, v in self._measure(gan, domain).items()}
            log_numbers(trainer, gan, {f"accuracy/{k}": v for k, v in accuracies.items()})
        if trainer.is_global_zero:
            percent = "  ".join(f"{name} {100 * v:.0f} %" for name, v in accuracies.items())
            log.debug("discriminator accuracy at %.1f kimg: %s", gan.images_seen / 1000, percent)

    def _measure(self, gan: GAN, domain: str) -> dict[str, float]:
        """The accuracy of a domain's discriminator on each kind of images."""
        logits = {
            kind: self._logits_of_reals(gan, domain, reals)
            for kind, reals in self.reals[domain].items()
        }
        logits["fakes"] = self._logits_of_fakes(gan, domain)
        boundary = gan.boundary
        if boundary is None:
            boundary = float(logits["training"].mean() + logits["fakes"].mean()) / 2
        real = {kind: float((rows > boundary).float().mean()) for kind, rows in logits.items()}
        return {**real, "fakes": 1 - real["fakes"]}

    def _logits_of_reals(self, gan: GAN, domain: str, reals: Reference) -> Tensor:
        chunks = list(reals.chunks(self._mine(reals), gan.device))
        if not chunks:
            return gather_rows(torch.empty(0, device=gan.device))
        images = torch.cat([to_float(chunk.images) for chunk in chunks])
        given = [chunk.label for chunk in chunks if chunk.label is not None]
        labels = torch.cat(given) if given else None
        # Neighbors are often of one class, which the statistics of BatchNorm would cancel.
        order = mixed(torch.arange(len(images)))
        return gather_rows(self._logits(gan, domain, images, labels, order))

    def _logits_of_fakes(self, gan: GAN, domain: str) -> Tensor:
        if isinstance(gan, Translating):
            images, labels = self._translations(gan, domain), None
        else:
            model, seeds = only_from_seeds(gan), list(range(rank(), self.num, world_size()))
            images = model.sample(seeds) if seeds else torch.empty(0, device=gan.device)
            labels = model.labels(seeds)
        order = torch.arange(len(images))
        return gather_rows(self._logits(gan, domain, images, labels, order))

    def _translations(self, gan: Translating, domain: str) -> Tensor:
        """Training images of the other domain, translated to this one."""
        (other,) = self.reals.keys() - {domain}
        reals = self.reals[other]["training"]
        parts = [
            gan.translate_many(to_float(chunk.images), f"{other}to{domain}")
            for chunk in reals.chunks(self._mine(reals), gan.device)
        ]
        return torch.cat([torch.empty(0, device=gan.device), *parts])

    def _logits(
        self, gan: GAN, domain: str, images: Tensor, labels: Tensor | None, order: Tensor
    ) -> Tensor:
        """Logits [N] of images in batches of the given order."""
        logits = [torch.empty(0, device=gan.device)]
        for part in order.split(64):
            given = None if labels is None else labels[part].to(gan.device)
            logits.append(gan.logits_of(images[part.to(images.device)], given, domain).float())
        return torch.cat(logits)

    @staticmethod
    def _mine(reals: Reference) -> range:
        """The chunks that this process reads."""
        return range(rank(), reals.num_chunks, world_size())
