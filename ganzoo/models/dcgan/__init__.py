"""DCGAN (Radford, Metz and Chintala 2016) and what trains its networks well today.

`conf/model/dcgan.yaml` is the common 4x4 layout; the recipes of the paper and of others are in
`conf/experiment`.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ganzoo.draws import Sampler, from_seeds, normal, unit
from ganzoo.engine.gan import GAN, Batch, evaluating
from ganzoo.errors import UserError
from ganzoo.models.dcgan.capacity import CapacityDiscriminator, CapacityGenerator
from ganzoo.models.dcgan.deep import DeepDiscriminator, DeepGenerator
from ganzoo.models.dcgan.networks import Discriminator, Generator
from ganzoo.nn.augment import DiffAugment
from ganzoo.nn.losses import Loss, NonSaturating, gradient_penalty, ignorance, zero_centered_penalty

__all__ = [
    "DCGAN",
    "CapacityDiscriminator",
    "CapacityGenerator",
    "DeepDiscriminator",
    "DeepGenerator",
    "Discriminator",
    "Generator",
]


class DCGAN(GAN):
    """An unconditional GAN of one generator and one discriminator.

    The discriminator's step comes first, on reals and fakes in separate passes (BatchNorm sees them
    apart); the generator's step takes the same fakes, judged anew by the updated discriminator, as
    in pytorch/examples.

    Args:
        generator: latents [N, nz] -> images [N, C, H, W] in [-1, 1].
        discriminator: images -> logits [N].
        loss: of both; see `ganzoo.nn.losses`.
        nz: size of the latent vector.
        prior: of the latents; see `ganzoo.draws`.
        augment: applied to everything that the discriminator sees; None for nothing.
        gradient_penalty: weight of WGAN-GP's penalty.
        r1, r2: gamma of the zero-centered penalties on reals and on fakes (each enters as gamma/2).
        shared: the arguments of `GAN`.

    Raises:
        UserError: a penalty together with a discriminator that has BatchNorm.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        loss: Loss | None = None,
        nz: int = 100,
        prior: Sampler = normal,
        augment: DiffAugment | None = None,
        gradient_penalty: float = 0.0,
        r1: float = 0.0,
        r2: float = 0.0,
        **shared: Any,
    ) -> None:
        super().__init__(generator, discriminator, **shared)
        self.loss = loss or NonSaturating()
        self.boundary, self.ignorance = self.loss.boundary, ignorance(self.loss)
        self.nz, self.prior, self.augment = nz, prior, augment
        self.gradient_penalty, self.r1, self.r2 = gradient_penalty, r1, r2
        penalized = gradient_penalty or r1 or r2
        if penalized and any(isinstance(m, _BatchNorm) for m in discriminator.modules()):
            raise UserError(
                "A gradient penalty is one of each sample by itself, but BatchNorm mixes the "
                "samples: add model.discriminator.norm=layer (or none)."
            )
        if penalized and "discriminator" in self.compiled:
            raise UserError(
                "torch.compile cannot differentiate twice, as a gradient penalty needs: leave the "
                "discriminator out of model.compile."
            )

    def step(self, batch: Batch) -> dict[str, Tensor]:
        for real in batch["image"].chunk(self.discriminator_steps):
            fakes = self._fakes(len(real))
            d_loss = self.update(
                "discriminator",
                self._discriminator_loss,
                self.split(real),
                [fake.detach() for fake in fakes],
                self._augmentation(len(real)),
                self._augmentation(len(real)),
                self.split(self.draws.rows(len(real), of=unit)),
            )
        for repeat in range(self.generator_steps):
            if repeat:
                fakes = self._fakes(len(real))
            g_loss = self.update(
                "generator",
                self._generator_loss,
                fakes,
                self.split(real),
                self._augmentation(len(real)),
                self._augmentation(len(real)),
            )
        return {"d_loss": d_loss, "g_loss": g_loss}

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[int],
        label: int | None = None,
        truncation: float | None = None,
        raw: bool = False,
    ) -> Tensor:
        """Images for seeds: [len(prompts), C, H, W] in [-1, 1].

        Args:
            prompts: seeds; each gives its image, whatever the others are.
            label: must be None: there are no classes.
            truncation: latents of larger magnitude are drawn again.
            raw: from the generator instead of its average.
        """
        return self.images(self.latents(prompts, truncation), raw, label)

    def latents(self, seeds: Sequence[int], truncation: float | None = None) -> Tensor:
        """One latent vector per seed: [len(seeds), nz]."""
        return from_seeds(seeds, (self.nz,), self.prior, truncation).to(
            self.device, self.number_type
        )

    @torch.no_grad()
    def images(
        self,
        latents: Tensor,
        raw: bool = False,
        labels: int | Tensor | None = None,
        truncation: float | None = None,
    ) -> Tensor:
        """Images of latents [N, nz], made by the average (or the raw) generator in eval mode."""
        if labels is not None:
            raise UserError("This model has no classes: sample without a label.")
        network = self.network(raw)
        with evaluating(network):
            return torch.cat([network(z) for z in latents.split(64)])

    # -- the two losses ---------------------------------------------------------------------------

    def _discriminator_loss(
        self, real: Tensor, fake: Tensor, u_real: Tensor, u_fake: Tensor, mix: Tensor
    ) -> Tensor:
        real_logits, fake_logits = self._logits(real, u_real), self._logits(fake, u_fake)
        loss = self.contest(real_logits, fake_logits)
        judge = partial(self._logits, u=u_real)
        if self.gradient_penalty:
            loss = loss + self.gradient_penalty * gradient_penalty(judge, real, fake, mix)
        if self.r1:
            loss = loss + self.r1 / 2 * zero_centered_penalty(judge, real)
        if self.r2:
            judge = partial(self._logits, u=u_fake)
            loss = loss + self.r2 / 2 * zero_centered_penalty(judge, fake)
        return loss

    def _generator_loss(self, fake: Tensor, real: Tensor, u_fake: Tensor, u_real: Tensor) -> Tensor:
        real_logits = None
        if self.loss.relative:
            with torch.no_grad():
                real_logits = self._logits(real, u_real)
        return self.loss.generator(self._logits(fake, u_fake), real_logits)

    def _logits(self, images: Tensor, u: Tensor) -> Tensor:
        return self.discriminator(images if self.augment is None else self.augment(images, u))

    def _fakes(self, n: int) -> list[Tensor]:
        z = self.draws.rows(n, self.nz, of=self.prior)
        return [self.generator(part) for part in self.split(z)]

    def _augmentation(self, n: int) -> tuple[Tensor, ...]:
        if self.augment is None:
            return self.split(torch.empty(n, 0, device=self.device))
        return self.split(self.augment.draw(self.draws, n))
