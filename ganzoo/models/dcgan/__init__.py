"""DCGAN (Radford, Metz and Chintala 2016), and what trains such networks well today.

`conf/model/dcgan.yaml` is the common layout with 4x4 kernels; `conf/experiment/dcgan_*.yaml` are
the recipes of the paper and of others.
"""

from functools import partial
from typing import Any

from torch import Tensor, nn

from ganzoo.config.values import Count, NotNegative
from ganzoo.draws import Sampler, normal, unit
from ganzoo.engine.gan import Batch
from ganzoo.engine.kinds import FromSeeds
from ganzoo.models.dcgan.capacity import CapacityDiscriminator, CapacityGenerator
from ganzoo.models.dcgan.deep import DeepDiscriminator, DeepGenerator
from ganzoo.models.dcgan.networks import Discriminator, Generator
from ganzoo.nn.ada import ADA
from ganzoo.nn.augment import DiffAugment
from ganzoo.nn.losses import Loss, NonSaturating
from ganzoo.nn.objective import Objective

__all__ = [
    "DCGAN",
    "CapacityDiscriminator",
    "CapacityGenerator",
    "DeepDiscriminator",
    "DeepGenerator",
    "Discriminator",
    "Generator",
]


class DCGAN(FromSeeds):
    """A GAN without classes: one generator, one discriminator.

    The discriminator's step comes first, with reals and fakes in separate passes, because BatchNorm
    would mix them. The generator's step uses the same fakes, with logits of the updated
    discriminator, as in pytorch/examples.

    Args:
        generator: latents [N, nz] -> images [N, C, H, W] in [-1, 1].
        discriminator: images -> logits [N].
        loss: adversarial loss; see `ganzoo.nn.losses`.
        nz: length of the latent vectors.
        prior: distribution of the latents; see `ganzoo.draws`.
        augment, gradient_penalty, r1, r2: see `Objective`.
        shared: the arguments of `GAN`.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        loss: Loss | None = None,
        nz: Count = 100,
        prior: Sampler = normal,
        augment: DiffAugment | ADA | None = None,
        gradient_penalty: NotNegative = 0.0,
        r1: NotNegative = 0.0,
        r2: NotNegative = 0.0,
        **shared: Any,
    ) -> None:
        super().__init__(generator, discriminator, nz, prior, **shared)
        loss = loss or NonSaturating()
        self.minimize(Objective(loss, gradient_penalty, r1, r2, augment=augment))
        self.objective.check_batchnorm(discriminator)

    # -- one iteration ----------------------------------------------------------------------------

    def step(self, batch: Batch) -> dict[str, Tensor]:
        # All is drawn for the complete batch before it is split, and in this order in every run.
        for real in batch["image"].chunk(self.discriminator_steps):  # new images for each step
            fakes = self._fakes(len(real))  # with their graph, which the generator's step needs
            d_loss = self.update(
                "discriminator",
                self._discriminator_loss,
                self.split(real),
                [fake.detach() for fake in fakes],
                self.split(self.objective.draw(self.draws, len(real))),
                self.split(self.objective.draw(self.draws, len(real))),
                self.split(self.draws.rows(len(real), of=unit)),
            )
        for repeat in range(self.generator_steps):
            if repeat:  # the first step learns from the fakes that the discriminator was shown
                fakes = self._fakes(len(real))
            g_loss = self.update(
                "generator",
                self._generator_loss,
                fakes,
                self.split(real),
                self.split(self.objective.draw(self.draws, len(real))),
                self.split(self.objective.draw(self.draws, len(real))),
            )
        self.note(**self.objective.adapt())
        return {"d_loss": d_loss, "g_loss": g_loss}

    def _discriminator_loss(
        self, real: Tensor, fake: Tensor, u_real: Tensor, u_fake: Tensor, mix: Tensor
    ) -> Tensor:
        strength = self.penalty_strength
        reals = self.objective.reals(partial(self._logits, u=u_real), real, strength)
        fakes = self.objective.fakes(partial(self._logits, u=u_fake), fake, strength)
        self.objective.watch(reals.logits, fakes.logits)
        loss = self.discriminator_loss(reals.logits, fakes.logits)
        return self.objective.penalized(loss, reals, fakes, mix, strength)

    def _generator_loss(self, fake: Tensor, real: Tensor, u_fake: Tensor, u_real: Tensor) -> Tensor:
        real_logits = self.objective.real_logits(lambda: self._logits(real, u_real))
        return self.loss.generator(self._logits(fake, u_fake), real_logits)

    def _logits(self, images: Tensor, u: Tensor) -> Tensor:
        return self.discriminator(self.objective.augmented(images, u))

    def _fakes(self, n: int) -> list[Tensor]:
        z = self.draws.rows(n, self.nz, of=self.prior)
        return [self.generator(part) for part in self.split(z)]
