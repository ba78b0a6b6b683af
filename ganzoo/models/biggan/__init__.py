"""BigGAN and BigGAN-deep: large class-conditional GANs (Brock et al. 2019).

`networks.py` and `deep.py` are the networks, `layers.py` what they are made of;
`conf/experiment/biggan_*.yaml` are the recipes of the paper and of others.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ganzoo.config.values import NotNegative
from ganzoo.data.images import ImageData
from ganzoo.draws import Sampler, integers, normal, unit
from ganzoo.engine.gan import Batch
from ganzoo.engine.kinds import FromSeeds, without
from ganzoo.engine.modes import evaluating
from ganzoo.engine.sampling import TRUNCATIONS, class_counts, shared_classes
from ganzoo.engine.turns import check_names
from ganzoo.errors import UserError, check_choice
from ganzoo.models.biggan.deep import DeepDiscriminator, DeepGenerator
from ganzoo.models.biggan.layers import (
    Spectral,
    StoredBatchNorm,
    add_orthogonal_gradient,
    choose_statistics,
    orthogonal_weights,
)
from ganzoo.models.biggan.networks import (
    ConditionalGenerator,
    Discriminator,
    Generator,
    ProjectionDiscriminator,
)
from ganzoo.nn.ada import ADA
from ganzoo.nn.augment import DiffAugment
from ganzoo.nn.losses import Hinge, Loss
from ganzoo.nn.objective import Judged, Objective

__all__ = ["BigGAN", "DeepDiscriminator", "DeepGenerator", "Discriminator", "Generator"]

Part = tuple[Tensor, Tensor | None]  # latents and labels, or images and labels


class BigGAN(FromSeeds):
    """A class-conditional GAN.

    Reals and fakes go through the discriminator in one pass, as in the authors' code: spectral
    normalization then makes one power iteration for both. The generator's step has new fakes.

    Args:
        generator: latents [N, nz] and classes -> images [N, C, H, W] in [-1, 1].
        discriminator: images and labels -> logits [N].
        classes: number of classes of both networks; 0 for an unconditional GAN.
        loss: adversarial loss; see `ganzoo.nn.losses`.
        labels: labels of fakes. "uniform": all classes are equally likely. "data": the labels of
            the reals in the batch, and in sampling as frequent as in the training data.
        prior: distribution of the latents; see `ganzoo.draws`.
        truncate: how sampling limits latents. "resample": values beyond the threshold are drawn
            again (section 3.1). "truncated_normal": values beyond 2 are drawn again and all are
            multiplied by the threshold, as for the published weights. "scale": all are multiplied
            by the threshold.
        orthogonal: for each named network, the strength of orthogonal regularization (1e-4 in the
            paper).
        augment, gradient_penalty, r1, r2: see `Objective`.
        shared: the arguments of `GAN`.
    """

    generator: ConditionalGenerator
    discriminator: ProjectionDiscriminator
    images_at_once = 32
    class_shares: Tensor  # share of each class in sampling, [classes]

    def __init__(
        self,
        generator: ConditionalGenerator,
        discriminator: ProjectionDiscriminator,
        classes: int,
        loss: Loss | None = None,
        labels: Literal["uniform", "data"] = "uniform",
        prior: Sampler = normal,
        truncate: Literal["resample", "truncated_normal", "scale"] = "resample",
        orthogonal: Mapping[str, float] | None = None,
        augment: DiffAugment | ADA | None = None,
        gradient_penalty: NotNegative = 0.0,
        r1: NotNegative = 0.0,
        r2: NotNegative = 0.0,
        **shared: Any,
    ) -> None:
        super().__init__(generator, discriminator, generator.nz, prior, **shared)
        self.minimize(Objective(loss or Hinge(), gradient_penalty, r1, r2, augment=augment))
        self.truncate, self.fake_labels = TRUNCATIONS[truncate], labels
        self.orthogonal = dict(orthogonal or {})
        check_names(self, "orthogonal", self.orthogonal)
        self.classes = classes
        self.register_buffer("class_shares", torch.full((self.classes,), 1 / max(1, self.classes)))
        check_choice("model.labels", labels, ["uniform", "data"])
        if not generator.classes == discriminator.classes == classes:
            raise UserError(
                f"The model has {classes} classes, its generator {generator.classes} and its "
                f"discriminator {discriminator.classes}: set all to the same number."
            )

    def setup(self, stage: str) -> None:
        super().setup(stage)
        data = getattr(self.trainer, "datamodule", None)  # absent unless `fit` was given one
        if isinstance(data, ImageData) and self.classes:
            counts = class_counts(data.source.labels(), data.source.classes, self.classes)
            if data.source.classes is not None:
                self.class_names = list(data.source.classes)
            if self.fake_labels == "data" and not data.balanced:
                self.class_shares.copy_(counts / counts.sum())

    # -- one iteration -----------------------------------------------------------------------------

    def step(self, batch: Batch) -> dict[str, Tensor]:
        labels = batch["label"] if self.classes else None
        # Latents are split here, and images made from them one micro-batch at a time: only one
        # part's graph is in memory.
        for index, real in enumerate(batch["image"].chunk(self.discriminator_steps)):
            y = None if labels is None else labels.chunk(self.discriminator_steps)[index]
            n = len(real)
            d_loss = self.update(
                "discriminator",
                self._discriminator_loss,
                self._parts(real, y),
                self._fakes(n, y),
                self.split(self.objective.draw(self.draws, n)),
                self.split(self.objective.draw(self.draws, n)),
                self.split(self.draws.rows(n, of=unit)),
            )
        for _ in range(self.generator_steps):
            g_loss = self.update(
                "generator",
                self._generator_loss,
                self._parts(real, y),
                self._fakes(n, y),
                self.split(self.objective.draw(self.draws, n)),
                self.split(self.objective.draw(self.draws, n)),
            )
        self.note(**self.objective.adapt())
        return {"d_loss": d_loss, "g_loss": g_loss}

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        if strength := self.orthogonal.get(self.turns.current):
            add_orthogonal_gradient(
                orthogonal_weights(self.get_submodule(self.turns.current)), strength
            )
        super().on_before_optimizer_step(optimizer)

    def _fakes(self, n: int, y: Tensor | None) -> list[Part]:
        """Latents and labels of n fakes, in micro-batches; y are the labels of n reals."""
        z = self.draws.rows(n, self.generator.nz, of=self.prior)
        if y is not None and self.fake_labels == "uniform":
            y = self.draws.rows(n, of=integers(self.classes))
        return self._parts(z, y)

    def _parts(self, rows: Tensor, y: Tensor | None) -> list[Part]:
        labels = [None] * self.accumulate if y is None else self.split(y)
        return list(zip(self.split(rows), labels, strict=True))

    def _discriminator_loss(
        self, real: Part, fake: Part, u_real: Tensor, u_fake: Tensor, mix: Tensor
    ) -> Tensor:
        with torch.no_grad():  # only the discriminator learns from these fakes
            images = self.generator(*fake)
        (reals, y_real), (_, y_fake) = real, fake
        images = images.to(reals.dtype)
        fake_logits, real_logits = self._logits(
            torch.cat([images, reals]),
            None if y_real is None or y_fake is None else torch.cat([y_fake, y_real]),
            torch.cat([u_fake, u_real]),
        ).chunk(2)
        self.objective.watch(real_logits, fake_logits)
        loss = self.discriminator_loss(real_logits, fake_logits)
        of_reals = partial(self._logits, y=y_real, u=u_real)
        of_fakes = partial(self._logits, y=y_fake, u=u_fake)
        return self.objective.penalized(
            loss,
            Judged(reals, real_logits, of_reals),  # penalties have passes of their own
            Judged(images, fake_logits, of_fakes),
            mix,
            self.penalty_strength,
        )

    def _generator_loss(self, real: Part, fake: Part, u_real: Tensor, u_fake: Tensor) -> Tensor:
        real_logits = self.objective.real_logits(lambda: self._logits(*real, u_real))
        fake_logits = self._logits(self.generator(*fake), fake[1], u_fake)
        return self.loss.generator(fake_logits, real_logits)

    def _logits(self, images: Tensor, y: Tensor | None, u: Tensor) -> Tensor:
        return self.discriminator(self.objective.augmented(images, u), y)

    # -- images ------------------------------------------------------------------------------------

    def labels(self, seeds: Sequence[int]) -> Tensor | None:
        if not self.classes:
            return None
        return shared_classes(seeds, self.class_shares).to(self.device)

    def images(
        self,
        latents: Tensor,
        raw: bool = False,
        labels: int | Tensor | None = None,
        truncation: float | None = None,
    ) -> Tensor:
        # `truncation` decides which statistics to use if the generator has them for several.
        if not self.standing:
            choose_statistics(self.network(raw), truncation)
        return super().images(latents, raw, labels, truncation)

    @property
    def stored_statistics(self) -> bool:
        return any(isinstance(module, StoredBatchNorm) for module in self.generator.modules())

    def bare(self, raw: bool = False) -> tuple[nn.Module, dict[str, Any]]:
        network, model = super().bare(raw)
        for layer in network.modules():
            if isinstance(layer, Spectral):
                layer.bake()
        model["generator"] = {**model["generator"], "spectral_norm": False}
        return network, without(model, "orthogonal")

    @torch.no_grad()
    def class_embeddings(self, labels: Tensor, raw: bool = False) -> Tensor | None:
        y = self.checked_labels(labels, len(labels))
        if y is None:
            return None
        vectors: Tensor = self.network(raw).embedded(y)
        return vectors

    @torch.no_grad()
    def logits_of(self, images: Tensor, labels: Tensor | None = None, domain: str = "") -> Tensor:
        if self.classes and labels is None:
            raise UserError("This discriminator's logits depend on the class: give labels, too.")
        with evaluating(self.discriminator):
            return self.discriminator(images.to(self.number_type), labels if self.classes else None)
