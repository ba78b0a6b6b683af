"""The two kinds of model: one makes images from seeds, the other translates images.

Subclass one of them and define `step`. The rest follows from the networks, and is overridden only
if a model differs:

- `FromSeeds`: `generator(latents)` or, with classes, `generator(latents, labels)` makes images.
  Give `nz`, the size of a latent vector, to its constructor. A model that starts from anything but
  latent vectors leaves `nz` at 0 and defines `sample`.
- `Translating`: set `directions` and `channels`, and define `translate`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from ganzoo.draws import Sampler, normal
from ganzoo.engine.gan import GAN
from ganzoo.engine.modes import evaluating, in_train_mode, standing_statistics
from ganzoo.engine.sampling import TRUNCATIONS, checked_classes, latents_of, uniform_classes
from ganzoo.errors import UserError

PIXELS = 2**19  # of images that are translated at once, to bound the memory
STANDING = 2**40  # first seed for standing statistics: far from any that one would sample


class FromSeeds(GAN):
    """A model that makes images from seeds, by way of latent vectors.

    Args:
        generator: network from latents [N, nz], and labels [N] if there are classes, to images
            [N, C, H, W] in [-1, 1].
        discriminator: network from images to logits [N].
        nz: size of a latent vector; 0 for a model without latent vectors, which defines `sample`.
        prior: distribution of the latent vectors; see `ganzoo.draws`.
        shared: the arguments of `GAN`.
    """

    images_at_once = 64  # how many `images` makes at a time

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        nz: int = 0,
        prior: Sampler = normal,
        **shared: Any,
    ) -> None:
        super().__init__(generator, discriminator, **shared)
        self.nz, self.prior = nz, prior
        self.truncate = TRUNCATIONS["resample"]
        self.standing = False  # whether there are standing statistics now

    @torch.no_grad()
    def sample(
        self,
        seeds: Sequence[int],
        label: int | None = None,
        truncation: float | None = None,
        raw: bool = False,
    ) -> Tensor:
        """Images of seeds, float [len(seeds), C, H, W] in [-1, 1].

        Args:
            seeds: random seeds; the image of each does not depend on the others.
            label: class of all images; None for each seed's own, see `labels`.
            truncation: threshold that latents are limited to; None for no limit.
            raw: whether to use the generator instead of its average.
        """
        y = self.labels(seeds) if label is None else label
        return self.images(self.latents(seeds, truncation), raw, y, truncation)

    def latents(self, seeds: Sequence[int], truncation: float | None = None) -> Tensor:
        """One latent vector per seed, [len(seeds), nz], limited by `truncation` and `truncate`."""
        if not self.nz:
            raise UserError(f"{type(self).__name__} has no latent space to draw from or walk in.")
        z = latents_of(seeds, self.nz, self.prior, truncation, self.truncate)
        return z.to(self.device, self.number_type)

    @torch.no_grad()
    def images(
        self,
        latents: Tensor,
        raw: bool = False,
        labels: int | Tensor | None = None,
        truncation: float | None = None,
    ) -> Tensor:
        """Images of latents [N, nz], float [N, C, H, W] in [-1, 1], made in eval mode.

        Args:
            labels: one class, a class for each latent (int64 [N]), or class embeddings [N, D];
                None for the first class.
            truncation: threshold that the latents were limited to.
        """
        network, y = self.network(raw), self.checked_labels(labels, len(latents))
        with evaluating(network):
            parts = torch.arange(len(latents)).split(self.images_at_once)
            return torch.cat(
                [self.generated(network, latents[p], None if y is None else y[p]) for p in parts]
            )

    def generated(self, network: nn.Module, z: Tensor, y: Tensor | None) -> Tensor:
        """Images of latents and labels by a generator that is in eval mode."""
        images: Tensor = network(z) if y is None else network(z, y)
        return images

    def labels(self, seeds: Sequence[int]) -> Tensor | None:
        """The class that `sample` gives each seed, int64 [len(seeds)]; None without classes."""
        return uniform_classes(seeds, self.classes) if self.classes else None

    def class_embeddings(self, labels: Tensor, raw: bool = False) -> Tensor | None:
        """Class embeddings [N, D] of labels [N]; interpolating two embeddings interpolates the
        classes. None if the generator does not embed classes.
        """
        return None

    def checked_labels(self, labels: int | Tensor | None, n: int) -> Tensor | None:
        """The `labels` of n `images`, or their class embeddings, on the model's device.

        None without classes. Raises `UserError` if there is no such class.
        """
        if isinstance(labels, Tensor) and labels.is_floating_point() and self.classes:
            return labels.to(self.device, self.number_type)
        y = checked_classes(labels, n, self.classes)
        return None if y is None else y.to(self.device)

    def bare(self, raw: bool = False) -> tuple[nn.Module, dict[str, Any]]:
        """The network that samples, and the config of a model that has nothing but that.

        The network is a copy, without anything that only training needs.
        """
        none = {"_target_": "ganzoo.nn.layers.NoDiscriminator", "classes": self.classes}
        return deepcopy(self.network(raw)), {**_untrained(self), "discriminator": none}

    # -- BatchNorm's statistics of samples ---------------------------------------------------------

    @property
    def stored_statistics(self) -> bool:
        """Whether the generator came with statistics of BatchNorm for several truncations."""
        return False

    @contextmanager
    def standing_statistics(
        self, truncation: float | None = None, batches: int = 16, size: int = 64, raw: bool = False
    ) -> Iterator[dict[str, int] | None]:
        """Inside, images are made with standing statistics; see `engine.modes`.

        They are estimated from `batches` fresh batches of `size` latents, limited by `truncation`,
        with labels as `labels` gives them. Yields the entry for a metric's protocol; None if
        `batches` is 0 or there is no BatchNorm, so that images are made as usual.
        """

        def inputs() -> Iterator[tuple[Tensor, ...]]:
            for first in range(STANDING, STANDING + batches * size, size):
                seeds = range(first, first + size)
                y = self.labels(seeds)
                yield (self.latents(seeds, truncation), *([] if y is None else [y]))

        if not batches:
            yield None
            return
        with standing_statistics(self.network(raw), inputs()) as self.standing:
            try:
                yield {"batches": batches, "size": size} if self.standing else None
            finally:
                self.standing = False


class Translating(GAN):
    """A model that translates between domains; `discriminator` is a `ModuleDict` by domain."""

    domains = ("A", "B")
    directions: tuple[str, ...]  # that the model translates in, such as "AtoB"
    channels: dict[str, int]  # of the images of each domain
    discriminator: nn.ModuleDict

    def translate(self, images: Tensor, direction: str = "AtoB", raw: bool = False) -> Tensor:
        """Images of the other domain, float [N, C', H, W] in [-1, 1] and of the same size."""
        raise NotImplementedError

    def translated(self, network: nn.Module, images: Tensor) -> Tensor:
        """Images of the other domain by a generator that is in eval mode."""
        found: Tensor = network(images)
        return found

    def bare(self, raw: bool = False) -> tuple[nn.Module, dict[str, Any]]:
        """The generators that translate, by direction, and the config of a model that has nothing
        but these; see `FromSeeds.bare`.
        """
        return deepcopy(self.network(raw)), {**_untrained(self), "discriminator": None}

    def translate_many(self, images: Tensor, direction: str = "AtoB", raw: bool = False) -> Tensor:
        """`translate` for any number of images, a few at a time."""
        few = max(1, PIXELS // (images.shape[2] * images.shape[3]))
        return torch.cat([self.translate(part, direction, raw) for part in images.split(few)])

    @torch.no_grad()
    def logits_of(self, images: Tensor, labels: Tensor | None = None, domain: str = "") -> Tensor:
        """The logits [N] of images by the discriminator of a domain; see `GAN.logits_of`."""
        if domain not in self.discriminator:
            raise UserError(f"This model has no discriminator of {domain}: it only translates.")
        network = self.discriminator[domain]
        with in_train_mode(network):
            return network(images.to(self.device, self.number_type)).flatten(1).mean(1)


def generator_of(gan: GAN, raw: bool = False) -> str:
    """Which generator makes the images, "average" or "raw"; of a shared model, which one it was."""
    shared = (gan.config or {}).get("average") is True
    return "average" if shared or (gan.average is not None and not raw) else "raw"


def _untrained(gan: GAN) -> dict[str, Any]:
    """A model's config without optimizers, an average, and what else belongs to them."""
    assert gan.config is not None
    model = without(
        gan.config["model"], "lr_factors", "clip", "compile", "accumulate", "ema_rampup",
        "ema_beta", "ema_start_kimg", "ema_buffers", "augment",
    )  # fmt: skip
    return {**model, "optimizers": {}, "ema_kimg": 0.0}


def without(mapping: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """A mapping without some of its keys."""
    return {key: value for key, value in mapping.items() if key not in keys}


def only_from_seeds(gan: GAN) -> FromSeeds:
    """The model itself. Raises `UserError` unless it makes images from seeds."""
    if not isinstance(gan, FromSeeds):
        raise UserError(
            f"{type(gan).__name__} translates images and makes none from seeds: use python -m "
            "ganzoo.translate CKPT SRC DST."
        )
    return gan


def only_translating(gan: GAN) -> Translating:
    """The model itself. Raises `UserError` unless it translates images."""
    if not isinstance(gan, Translating):
        raise UserError(
            f"{type(gan).__name__} makes images from seeds and translates none: use python -m "
            "ganzoo.sample CKPT."
        )
    return gan


def batches_for(gan: FromSeeds, asked: int | None, truncated: bool) -> int:
    """How many batches standing statistics are estimated from.

    `asked` if given. By default 16 when latents are truncated, because running statistics belong to
    latents without a limit; 0 otherwise, or if the generator stores statistics for truncations.
    """
    if asked is not None:
        return asked
    return 16 if truncated and not gan.stored_statistics else 0
