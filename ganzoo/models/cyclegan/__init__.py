"""CycleGAN: translation between two domains of images without pairs (Zhu et al. 2017).

`networks.py` are the networks of the authors' PyTorch code and smaller ones, `pool.py` is the pool
of earlier fakes. `conf/experiment/cyclegan_*.yaml` are the authors' recipes.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from ganzoo.config.values import Count, Natural, NotNegative, Sides
from ganzoo.distributed.collectives import world_size
from ganzoo.draws import unit
from ganzoo.engine.gan import Batch
from ganzoo.engine.kinds import Translating
from ganzoo.engine.modes import evaluating
from ganzoo.errors import UserError
from ganzoo.models.cyclegan.networks import (
    PatchDiscriminator,
    PixelDiscriminator,
    ResNetGenerator,
    SmallDiscriminator,
    SmallGenerator,
    UNetGenerator,
    at_any_size,
)
from ganzoo.models.cyclegan.pool import ImagePool
from ganzoo.nn.layers import enlarged, shrunk
from ganzoo.nn.losses import LeastSquares, Loss
from ganzoo.nn.objective import Objective
from ganzoo.schedules.growth import Growth

__all__ = [
    "CycleGAN",
    "ImagePool",
    "PatchDiscriminator",
    "PixelDiscriminator",
    "ResNetGenerator",
    "SmallDiscriminator",
    "SmallGenerator",
    "UNetGenerator",
]

ENDS = {"AtoB": ("A", "B"), "BtoA": ("B", "A")}  # direction -> source and target domain
BACK = {"AtoB": "BtoA", "BtoA": "AtoB"}

Images = dict[str, Tensor]  # by domain


class CycleGAN(Translating):
    """Two generators, "AtoB" and "BtoA", and a discriminator for each domain, "A" and "B".

    A batch is {"A": [n, channels_a, H, W], "B": [n, channels_b, H, W]} in [-1, 1]; the clock counts
    the images of one domain. `discriminator["A"]` distinguishes images of A from fakes of BtoA (the
    authors' code calls it D_B).

    Args:
        generator: makes a generator from its numbers of input and output channels; None for a
            model that has only discriminators.
        discriminator: makes a discriminator from its number of input channels; None for a model
            that translates but cannot be trained.
        optimizers: makers of the optimizers of "generator" and "discriminator", or of a part of one
            ("generator.AtoB").
        loss: adversarial loss; see `ganzoo.nn.losses`.
        channels_a, channels_b: channels of the images of A and of B.
        image_size: size of training images, one number or [height, width].
        order: the networks that are updated one after the other. The two generators, or the two
            discriminators, are updated together under one name with one optimizer, or each by
            itself ("generator.AtoB", "discriminator.A"). A discriminator sees the fakes of the
            latest step of their generator.
        lambda_a, lambda_b: weights of the cycles A -> B -> A and B -> A -> B.
        lambda_identity: weight of the identity loss, relative to the cycle weight of the same
            domain; 0 for none.
        pool: number of earlier fakes that are kept for each discriminator; 0 for none.
        discriminator_scale: factor of the discriminators' loss and penalties; the authors have 1/2.
        gradient_penalty, r1, r2: see `Objective`.
        growth: schedule by which training images grow, with its batch sizes; None for full-size
            images from the start.
        directions: the directions of translation; a model with only one cannot be trained.
        judged: the domains that have a discriminator; likewise.
        clip, lr_factors: arguments of `GAN`, in which "generator" and "discriminator" also stand
            for their parts.
        shared: the other arguments of `GAN`.

    Raises UserError: `order` does not update every network once, an identity loss between images
    with different numbers of channels, repeated steps in an iteration, or a penalty together with
    BatchNorm or torch.compile.
    """

    generator: nn.ModuleDict

    def __init__(
        self,
        generator: Callable[[int, int], nn.Module] | None,
        discriminator: Callable[[int], nn.Module] | None,
        optimizers: Mapping[str, Callable[..., Optimizer]],
        loss: Loss | None = None,
        channels_a: Count = 3,
        channels_b: Count = 3,
        image_size: Sides = 256,
        order: Sequence[str] = ("generator", "discriminator"),
        lambda_a: NotNegative = 10.0,
        lambda_b: NotNegative = 10.0,
        lambda_identity: NotNegative = 0.5,
        pool: Natural = 50,
        discriminator_scale: NotNegative = 0.5,
        gradient_penalty: NotNegative = 0.0,
        r1: NotNegative = 0.0,
        r2: NotNegative = 0.0,
        growth: Growth | None = None,
        directions: Sequence[str] = tuple(ENDS),
        judged: Sequence[str] = ("A", "B"),
        clip: Mapping[str, float] | None = None,
        lr_factors: Mapping[str, Callable[[int], float]] | None = None,
        **shared: Any,
    ) -> None:
        channels = {"A": channels_a, "B": channels_b}
        super().__init__(
            nn.ModuleDict(
                {d: generator(*(channels[domain] for domain in ENDS[d])) for d in directions}
                if generator
                else {}
            ),
            nn.ModuleDict({d: discriminator(channels[d]) for d in judged} if discriminator else {}),
            optimizers=_for_each(order, optimizers),
            clip=_for_each(order, clip or {}),
            lr_factors=_for_each(order, lr_factors or {}),
            **shared,
        )
        self.directions, self.order, self.channels = tuple(directions), tuple(order), channels
        loss = loss or LeastSquares()
        self.minimize(Objective(loss, gradient_penalty, r1, r2, scale=discriminator_scale))
        self.objective.check_batchnorm(self.discriminator)
        self.lambdas, self.lambda_identity = {"A": lambda_a, "B": lambda_b}, lambda_identity
        self.discriminator_reports = {
            domain: (f"losses/{domain}_loss", f"logits/real_{domain}", f"logits/fake_{domain}")
            for domain in ("A", "B")
        }
        height, width = (image_size,) * 2 if isinstance(image_size, int) else image_size
        self.image_size = height, width
        self.pools = nn.ModuleDict(
            {d: ImagePool(pool, n, height, width) for d, n in channels.items()} if pool else {}
        )
        self.growth = growth
        if growth is not None:
            self.batch_size = self._batch_size
        self._check()

    # -- growth -----------------------------------------------------------------------------------

    @property
    def lod(self) -> float:
        """The level of detail now: the number of missing doublings, 0 for full images."""
        return 0.0 if self.growth is None else self.growth.lod(self.images_seen)

    def stage(self, images: int) -> int:
        return 0 if self.growth is None else self.growth.stage(images)

    def stages(self) -> dict[int, str]:
        if self.growth is None:
            return super().stages()
        later = [
            n for n in self.growth.starts().values() if self.images_seen < n < self.total_images
        ]
        return {start: self.growth.stage_name(start) for start in (self.images_seen, *later)}

    def _batch_size(self, images: int) -> int:
        assert self.growth is not None
        return self.growth.batch(images, world_size())

    # -- one iteration ----------------------------------------------------------------------------

    def step(self, batch: Batch) -> dict[str, Tensor]:
        if self.growth is not None:
            self.report.show(lod=self.lod)
        reals: Images = {domain: _shown(batch[domain], self.lod) for domain in ("A", "B")}
        fakes: Images = {}
        losses = {}
        for name in self.order:
            kind, _, part = name.partition(".")
            if kind == "generator":
                directions = [part] if part else list(self.directions)
                made: list[Images] = []
                loss: Callable[..., Tensor] = partial(self._generator_loss, directions, made)
                losses[f"{name}_loss"] = self.update(name, loss, self._split(reals))
                fakes |= {domain: torch.cat([m[domain] for m in made]) for domain in made[0]}
            else:
                domains = [part] if part else ["A", "B"]
                shown = {domain: self._judged(domain, reals, fakes) for domain in domains}
                mix = self.draws.rows(len(batch["A"]), len(domains), of=unit)
                loss = partial(self._discriminator_loss, domains)
                losses[f"{name}_loss"] = self.update(
                    name, loss, self._split(reals), self._split(shown), self.split(mix)
                )
        return losses

    @torch.no_grad()
    def translate(self, images: Tensor, direction: str = "AtoB", raw: bool = False) -> Tensor:
        """Images of the other domain, [N, C', H, W], of images of any height and width.

        While training images still grow, these are shrunk to the same size and enlarged afterwards.
        """
        if direction not in self.directions:
            raise UserError(
                f"This model does not translate {direction}: use {' or '.join(self.directions)}."
            )
        expected = self.channels[ENDS[direction][0]]
        if images.shape[1] != expected:
            raise UserError(
                f"{direction} takes images with {expected} channel(s), not {images.shape[1]}: "
                f"convert them first."
            )
        network = self.network(raw)[direction]
        with evaluating(network):
            return self.translated(network, images.to(self.device, self.number_type))

    def translated(self, network: nn.Module, images: Tensor) -> Tensor:
        lod = self.lod
        times = 2 ** int(lod)

        def shrunk_and_enlarged(whole: Tensor) -> Tensor:
            return enlarged(network(_shown(whole, lod)), times)

        if not lod:
            return network(images)
        return at_any_size(shrunk_and_enlarged, images, multiple=2 * times, least=2 * times)

    def bare(self, raw: bool = False) -> tuple[nn.Module, dict[str, Any]]:
        network, model = super().bare(raw)
        return network, {**model, "pool": 0}

    def logits_of(self, images: Tensor, labels: Tensor | None = None, domain: str = "") -> Tensor:
        images = _shown(images.to(self.device, self.number_type), self.lod)
        return super().logits_of(images, labels, domain)

    # -- the two losses ---------------------------------------------------------------------------

    def _generator_loss(self, directions: list[str], made: list[Images], reals: Images) -> Tensor:
        """The sum of all losses that depend on the generators of `directions`.

        The adversarial loss (Zhu et al. 2017, equation 1), the cycle loss (equation 2) and the
        identity loss (section 5.2). The fakes are appended to `made`, for the discriminators.
        """
        total = torch.zeros((), device=self.device)
        fakes = {}
        for direction in self.directions:
            source, target = ENDS[direction]
            forth, back = self.generator[direction], self.generator[BACK[direction]]
            fake = forth(reals[source])
            cycle = self.lambdas[source] * F.l1_loss(back(fake), reals[source])
            terms = {f"cycle_{source}_loss": cycle}
            if direction in directions:
                fakes[target] = fake.detach()
                terms[f"{direction}_loss"] = self._adversarial(target, fake, reals[target])
                if self.lambda_identity:
                    weight = self.lambda_identity * self.lambdas[target]
                    same = F.l1_loss(forth(reals[target]), reals[target])
                    terms[f"identity_{target}_loss"] = weight * same
            self.note(**{f"losses/{name}": term for name, term in terms.items()})
            total = total + torch.stack(list(terms.values())).sum()
        made.append(fakes)
        return total

    def _adversarial(self, domain: str, fake: Tensor, real: Tensor) -> Tensor:
        real_logits = self.objective.real_logits(lambda: self._logits(domain, real))
        return self.loss.generator(self._logits(domain, fake), real_logits)

    def _discriminator_loss(
        self, domains: list[str], reals: Images, fakes: Images, mix: Tensor
    ) -> Tensor:
        total = torch.zeros((), device=self.device)
        for i, domain in enumerate(domains):
            of, strength = partial(self._logits, domain), self.penalty_strength
            real = self.objective.reals(of, reals[domain], strength)
            fake = self.objective.fakes(of, fakes[domain], strength)
            loss = self.discriminator_loss(real.logits, fake.logits, domain, self.objective.scale)
            times = 2 ** int(self.lod)  # penalties are those of full-size images, as in PGGAN
            total = total + self.objective.penalized(loss, real, fake, mix[:, i], strength, times)
        return total

    def _logits(self, domain: str, images: Tensor) -> Tensor:
        """Logits of a discriminator, in float32 at least."""
        logits: Tensor = self.discriminator[domain](images)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    # -- details ----------------------------------------------------------------------------------

    def _judged(self, domain: str, reals: Images, fakes: Images) -> Tensor:
        """The fakes that a discriminator is shown: the latest, or earlier ones from its pool."""
        direction = next(d for d, (_, target) in ENDS.items() if target == domain)
        if domain not in fakes:
            with torch.no_grad():
                fakes[domain] = self.generator[direction](reals[ENDS[direction][0]])
        if domain not in self.pools:
            return fakes[domain]
        pool: ImagePool = self.pools[domain]  # type: ignore[assignment]
        # Small images are kept enlarged: the pool's size is fixed, and the next level starts so.
        times = 2 ** int(self.lod)
        kept = pool.exchange(enlarged(fakes[domain], times), self.images_seen, self.draws)
        return _shown(kept, int(self.lod))

    def _split(self, images: Images) -> list[Images]:
        """The micro-batches of a batch of each domain."""
        parts = zip(*map(self.split, images.values()), strict=True)
        return [dict(zip(images, part, strict=True)) for part in parts]

    def _check(self) -> None:
        """Raise `UserError` for options that do not go together."""
        networks = {f"generator.{direction}" for direction in self.generator}
        networks |= {f"discriminator.{domain}" for domain in self.discriminator}
        updated = [n for name in self.order for n in networks if f"{n}.".startswith(f"{name}.")]
        if self.turns.networks and sorted(updated) != sorted(networks):
            raise UserError(
                f"model.order={list(self.order)} does not update every network exactly once: use "
                f"generator and discriminator, or their parts {', '.join(sorted(networks))}."
            )
        if self.lambda_identity and len(set(self.channels.values())) > 1:
            raise UserError(
                "An identity loss needs equal numbers of channels in A and B: set "
                "model.lambda_identity=0."
            )
        if self.discriminator_steps != 1 or self.generator_steps != 1:
            raise UserError(
                "A CycleGAN updates every network once per iteration: set "
                "model.discriminator_steps=1 and model.generator_steps=1."
            )


def _shown(images: Tensor, lod: float) -> Tensor:
    """Images as the networks see them at a level of detail; see `shrunk`."""
    height, width = images.shape[-2:]
    return shrunk(images, lod, (height >> int(lod), width >> int(lod))) if lod else images


def _for_each(order: Sequence[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """The value for each network in `order`, given under its name or that of the whole."""
    found = {name: given.get(name, given.get(name.partition(".")[0])) for name in order}
    return {name: value for name, value in found.items() if value is not None}
