"""PGGAN: networks that grow during training (Karras et al. 2018), as in the official code.

`networks.py` are the networks, `layers.py` their layers; `ganzoo/schedules/growth.py` defines when
they grow. `conf/experiment/pggan_*.yaml` are the paper's recipes.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from math import ceil
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganzoo.config.values import NotNegative
from ganzoo.data.images import ImageData
from ganzoo.distributed.collectives import average_over_processes, world_size
from ganzoo.draws import Sampler, normal, unit
from ganzoo.engine.gan import Batch
from ganzoo.engine.kinds import FromSeeds
from ganzoo.engine.modes import evaluating
from ganzoo.engine.sampling import class_counts
from ganzoo.errors import check_choice
from ganzoo.models.pggan.diagram import describe
from ganzoo.models.pggan.layers import MinibatchDiscrimination
from ganzoo.models.pggan.networks import Discriminator, Generator
from ganzoo.nn.ada import ADA
from ganzoo.nn.augment import DiffAugment
from ganzoo.nn.layers import enlarged, shrunk
from ganzoo.nn.losses import Loss, Wasserstein
from ganzoo.nn.objective import Objective
from ganzoo.schedules.growth import Growth

log = logging.getLogger(__name__)

__all__ = ["PGGAN", "Discriminator", "Generator"]

FIRST_REALS = 500  # reals that minibatch discrimination is initialized from, as in the paper's code


class PGGAN(FromSeeds):
    """A GAN whose two networks grow from the base grid to the full image.

    All that changes during a run is a function of the images seen: `growth` gives the level of
    detail, the batch size, the learning rate, and when the optimizers are reset. If the networks
    have classes, the discriminator is also an auxiliary classifier, and fakes have the labels of
    the reals.

    Args:
        generator: (z [N, nz], y, lod) -> images at the resolution of the lod.
        discriminator: (images, lod) -> scores [N], or [N, 1 + classes].
        growth: the schedule of progressive growing. Lengths that it leaves open follow from
            total_kimg; a run that is resumed keeps those that it began with.
        loss: adversarial loss; see `ganzoo.nn.losses`.
        gradient_penalty, target: weight of WGAN-GP's penalty (10 in the paper) and the gradient
            norm that it aims at (1; 750 for CIFAR-10); see `Objective`.
        drift: weight of the mean squared score of reals (0.001 in the paper).
        r1, r2, augment: see `Objective`.
        penalty_size: images with respect to which penalties take gradients while the networks grow.
            "full": images of full size, as both official codes do, so that a new level does not
            change a penalty. "grown": images of the present size, as pytorch_GAN_zoo does.
        reset_optimizers: whether optimizers forget their moments at both ends of a fade, as in the
            official code.
        label_weight: weight of the auxiliary classifier's cross-entropy.
        prior: distribution of the latents; see `ganzoo.draws`.
        shared: the arguments of `GAN`.
    """

    generator: Generator
    discriminator: Discriminator
    images_at_once = 16

    def __init__(
        self,
        generator: Generator,
        discriminator: Discriminator,
        growth: Growth,
        loss: Loss | None = None,
        gradient_penalty: NotNegative = 10.0,
        target: NotNegative = 1.0,
        drift: NotNegative = 0.001,
        r1: NotNegative = 0.0,
        r2: NotNegative = 0.0,
        penalty_size: Literal["full", "grown"] = "full",
        reset_optimizers: bool = True,
        label_weight: NotNegative = 1.0,
        prior: Sampler = normal,
        augment: DiffAugment | ADA | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(generator, discriminator, generator.nz, prior, **shared)
        self.open_schedule = growth.train_kimg is None or growth.fade_kimg is None
        self.growth = growth.within(self.total_images / 1000)
        # BatchNorm is not checked: the paper's mode test penalizes a discriminator that has it.
        self.minimize(Objective(loss or Wasserstein(), gradient_penalty, r1, r2, target, augment))
        check_choice("model.penalty_size", penalty_size, ["full", "grown"])
        self.drift, self.label_weight, self.penalty_size = drift, label_weight, penalty_size
        self.reset_optimizers = reset_optimizers
        self.classes = generator.classes
        self.sampled_lod: float | None = None  # of the images that `sample` makes
        self.batch_size, self.shown_size = self._batch_size, self._shown_size
        for name in self.turns.networks:
            self.turns.lr_factors.setdefault(name, self._lr_factor)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        data = getattr(self.trainer, "datamodule", None)  # absent unless `fit` was given one
        if isinstance(data, ImageData) and self.classes:
            class_counts(
                data.source.labels(), data.source.classes, self.classes, "model.generator.classes"
            )
        self._warn_if_small("ends")

    def on_train_end(self) -> None:
        super().on_train_end()
        if self.images_seen >= self.total_images:
            self._warn_if_small("ended")

    def _warn_if_small(self, ends: str) -> None:
        whole = self.growth.starts()[2 * self.growth.levels]
        if self.total_images <= whole and self.global_rank == 0:
            log.warning(
                "The run %s at %s. Full-size images are reached after %g kimg: increase "
                "total_kimg, or lower model.growth.train_kimg and fade_kimg.",
                ends,
                self.growth.stage_name(self.moment(self.total_images)),
                whole / 1000,
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["ganzoo"]["growth"] = {
            "train_kimg": self.growth.train_kimg,
            "fade_kimg": self.growth.fade_kimg,
            "resolution": 4 * 2 ** (self.growth.levels - ceil(self.lod)),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        kept = checkpoint["ganzoo"].get("growth")
        if kept and self.open_schedule:  # a longer run would otherwise shrink the networks again
            self.growth = replace(
                self.growth, train_kimg=kept["train_kimg"], fade_kimg=kept["fade_kimg"]
            )

    def differs_from(self, checkpoint: dict[str, Any]) -> list[str]:
        grown = checkpoint["ganzoo"].get("growth", {}).get("resolution", 4)
        grown = min(grown, 4 * 2**self.growth.levels)
        if self.growth.resolution(self.images_seen) >= grown:
            return []
        return [
            f"its networks have grown to {grown} pixels, but this run starts with "
            f"{self.growth.resolution(self.images_seen)}: add "
            f"model.growth.initial_resolution={grown} to start where it was"
        ]

    # -- the schedule ------------------------------------------------------------------------------

    def moment(self, images: int) -> int:
        """The images seen when the schedule was last evaluated; see `Growth.moment`."""
        return self.growth.moment(images, world_size(), self.discriminator_steps)

    @property
    def lod(self) -> float:
        """The level of detail now: the number of missing doublings, 0 for full images."""
        return self.growth.lod(self.moment(self.images_seen))

    def after_step(self) -> None:
        before, now = self.moment(self.images_before), self.moment(self.images_seen)
        # A fade begins or ends.
        if self.reset_optimizers and self.growth.stage(before) != self.growth.stage(now):
            for name in self.turns.networks:
                self.turns.optimizer(name).optimizer.state.clear()

    def stage(self, images: int) -> int:
        return self.growth.stage(self.moment(images))

    def stages(self) -> dict[int, str]:
        starts = {self.images_seen}
        for start in self.growth.starts().values():
            at = start
            while self.moment(at) < start:  # until the schedule is evaluated again
                at += self._batch_size(at)
            # Of stages that are shorter than the time between two evaluations, the last one counts.
            if self.images_seen < (now := self.moment(at)) < self.total_images:
                starts.add(now)
        return {at: self.growth.stage_name(self.moment(at)) for at in sorted(starts)}

    def tick_kimg(self, images: int) -> float:
        return self.growth.tick_kimg(self.moment(images))

    def _batch_size(self, images: int) -> int:
        return self.growth.batch(self.moment(images), world_size())

    def _shown_size(self, images: int) -> tuple[int, int]:
        return self.generator.resolution(self.growth.lod(self.moment(images)))

    def _lr_factor(self, images: int) -> float:
        return self.growth.lr_factor(self.moment(images))

    # -- before the first iteration ----------------------------------------------------------------

    def on_fit_start(self) -> None:
        """Initialize minibatch discrimination, if the discriminator has it, from reals."""
        network = self.discriminator
        layers = [m for m in network.modules() if isinstance(m, MinibatchDiscrimination)]
        if all(layer.fitted for layer in layers):
            return
        data: ImageData = self.trainer.datamodule  # type: ignore[attr-defined]
        images = data.first_images(FIRST_REALS)
        group = max(1, min(network.group_size, len(images)))
        images = images[: len(images) // group * group]
        network.fit(shrunk(images, self.lod, network.resolution(self.lod)), self.lod)
        average_over_processes(network.parameters())  # devices may round differently

    # -- one iteration -----------------------------------------------------------------------------

    def step(self, batch: Batch) -> dict[str, Tensor]:
        lod = self.lod
        self.report.show(lod=lod)
        labels = batch["label"] if self.classes else None
        for index, real in enumerate(batch["image"].chunk(self.discriminator_steps)):
            real = shrunk(real, lod, self.generator.resolution(lod))
            y = None if labels is None else labels.chunk(self.discriminator_steps)[index]
            n = len(real)
            # Only the discriminator learns from these fakes; the generator gets new ones below.
            with torch.no_grad():
                fakes = [self.generator(*part, lod=lod) for part in self._inputs(n, y)]
            d_loss = self.update(
                "discriminator",
                partial(self._discriminator_loss, lod=lod),
                self.split(real),
                fakes,
                self._labels(n, y),
                self.split(self.objective.draw(self.draws, n)),
                self.split(self.objective.draw(self.draws, n)),
                self.split(self.draws.rows(n, of=unit)),
            )
        for _ in range(self.generator_steps):
            g_loss = self.update(
                "generator",
                partial(self._generator_loss, lod=lod),
                self._inputs(n, y),
                self.split(real),
                self.split(self.objective.draw(self.draws, n)),
                self.split(self.objective.draw(self.draws, n)),
            )
        self.note(**self.objective.adapt())
        return {"d_loss": d_loss, "g_loss": g_loss}

    def _inputs(self, n: int, y: Tensor | None) -> list[tuple[Tensor, Tensor | None]]:
        z = self.split(self.draws.rows(n, self.generator.nz, of=self.prior))
        return list(zip(z, self._labels(n, y), strict=True))

    def _labels(self, n: int, y: Tensor | None) -> Sequence[Tensor | None]:
        return [None] * self.accumulate if y is None else self.split(y)

    def _discriminator_loss(
        self,
        real: Tensor,
        fake: Tensor,
        y: Tensor | None,
        u_real: Tensor,
        u_fake: Tensor,
        mix: Tensor,
        lod: float,
    ) -> Tensor:
        strength = self.penalty_strength
        reals = self.objective.reals(partial(self._outputs, u=u_real, lod=lod), real, strength)
        fakes = self.objective.fakes(partial(self._outputs, u=u_fake, lod=lod), fake, strength)
        real_outputs, fake_outputs = reals.logits, fakes.logits
        real_scores, fake_scores = self._scores(real_outputs), self._scores(fake_outputs)
        self.objective.watch(real_scores, fake_scores)
        loss = self.discriminator_loss(real_scores, fake_scores)
        # Appendix A.1: keeps scores from drifting away from 0, which the loss leaves open.
        loss = loss + self.drift * real_scores.square().mean()
        if y is not None:  # an auxiliary classifier (Odena et al. 2017), as in the official code
            loss = loss + self.label_weight * (
                F.cross_entropy(real_outputs[:, 1:], y) + F.cross_entropy(fake_outputs[:, 1:], y)
            )
        times = 2 ** int(lod) if self.penalty_size == "full" else 1
        reals = reals._replace(logits=real_scores, of=partial(self._score, u=u_real, lod=lod))
        fakes = fakes._replace(logits=fake_scores, of=partial(self._score, u=u_fake, lod=lod))
        return self.objective.penalized(loss, reals, fakes, mix, strength, times)

    def _generator_loss(
        self,
        inputs: tuple[Tensor, Tensor | None],
        real: Tensor,
        u_fake: Tensor,
        u_real: Tensor,
        lod: float,
    ) -> Tensor:
        outputs = self._outputs(self.generator(*inputs, lod=lod), u_fake, lod)
        real_scores = self.objective.real_logits(lambda: self._score(real, u_real, lod))
        loss = self.loss.generator(self._scores(outputs), real_scores)
        if (y := inputs[1]) is not None:
            loss = loss + self.label_weight * F.cross_entropy(outputs[:, 1:], y)
        return loss

    def _outputs(self, images: Tensor, u: Tensor, lod: float) -> Tensor:
        """The discriminator's scores, followed by the logits of classes, in float32 at least."""
        outputs = self.discriminator(self.objective.augmented(images, u), lod)
        return outputs.to(torch.promote_types(outputs.dtype, torch.float32))

    def _scores(self, outputs: Tensor) -> Tensor:
        return outputs[:, 0] if self.classes else outputs

    def _score(self, images: Tensor, u: Tensor, lod: float) -> Tensor:
        return self._scores(self._outputs(images, u, lod))

    def describe(self, lod: float | None = None) -> str:
        """The layers that are active at a level of detail (None: the present one), as text."""
        lod = self.lod if lod is None else lod
        return "\n\n".join(describe(n, lod) for n in (self.generator, self.discriminator))

    # -- images ------------------------------------------------------------------------------------

    def sample(
        self,
        seeds: Sequence[int],
        label: int | None = None,
        truncation: float | None = None,
        raw: bool = False,
        lod: float | None = None,
    ) -> Tensor:
        """Images of seeds at full size; see `FromSeeds.sample`.

        `lod` is their level of detail, None for the present one. Smaller images are enlarged.
        """
        self.sampled_lod = lod
        try:
            return super().sample(seeds, label, truncation, raw)
        finally:
            self.sampled_lod = None

    def generated(self, network: nn.Module, z: Tensor, y: Tensor | None) -> Tensor:
        lod = self.lod if self.sampled_lod is None else self.sampled_lod
        return enlarged(network(z, y, lod=lod), 2 ** int(lod))

    @torch.no_grad()
    def logits_of(self, images: Tensor, labels: Tensor | None = None, domain: str = "") -> Tensor:
        lod = self.lod
        images = shrunk(images.to(self.number_type), lod, self.generator.resolution(lod))
        with evaluating(self.discriminator):
            # One by one: through the minibatch's standard deviation a score depends on the others.
            parts = [self.discriminator(part, lod) for part in images.split(1)]
        return self._scores(torch.cat(parts))
