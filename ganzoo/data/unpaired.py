"""Batches of images of two domains that are not paired."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import lightning as L
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ganzoo.data.images import Batches, ImageData, Loader, as_it_is, prepare_on_other_nodes
from ganzoo.data.source import Source, pair
from ganzoo.data.stream import BatchSize, Indices, Stream, batch_size_at
from ganzoo.draws import seed_of
from ganzoo.errors import UserError

log = logging.getLogger(__name__)

Batch = dict[str, Tensor]

ENLARGED = 286 / 256  # of the size that windows are cut out of, as in the authors' code


class Unpaired(L.LightningDataModule):
    """Two sets of images, A and B, each shown in an endless stream of its own.

    A training batch is {"A": [n, C_a, H, W], "B": [n, C_b, H, W]}, in [-1, 1] and in the module's
    dtype. The two streams have seeds of their own, so that which images meet is chance, and neither
    domain's size says how long an epoch of the other is. Each is an `ImageData`: see there for
    crops, flips, resizing, and what the module that is trained must have.

    The test images are shown whole, in the size of the batches, and not flipped.

    Args:
        a, b: make the source of a domain from `image_size` and the options in `source`.
        image_size: of the batches, one int or [height, width].
        source: options of both sources, among them their `split`, which is "train" for those who
            have test images.
        channels, channels_b: of A and of B; None: as many as of A.
        batch_size: images of each domain of one discriminator step over all devices, or a function
            from images seen to it.
        seed: of the order and the crops.
        load_size: what the sources deliver, to be cropped; None: `image_size`, times 286/256 with
            `crop`, as Zhu et al. 2017 (appendix 7.1) resize to 286 and crop 256.
        crop: None, "random" (a window per image, drawn anew each time), or "center".
        mirror: show every image twice an epoch, once flipped left to right.
        subset: use that many images of each domain; see `Subset`.
        test_pairs: image i of A's test images and image i of B's show the same.
        workers: processes that load images; with 0 a thread of the training process reads ahead.

    Attributes:
        domains: "A" and "B", what is trained on.

    Raises:
        UserError: when options do not fit a source.
    """

    trainer: Any  # set by the Trainer; its module is a GAN, which Lightning's types cannot say

    def __init__(
        self,
        a: partial[Source],
        b: partial[Source],
        image_size: int | Sequence[int],
        channels: int,
        batch_size: BatchSize,
        seed: int,
        source: Mapping[str, Any] | None = None,
        channels_b: int | None = None,
        load_size: int | Sequence[int] | None = None,
        crop: str | None = "random",
        mirror: bool = True,
        subset: int | None = None,
        test_pairs: bool = False,
        workers: int = 0,
    ) -> None:
        super().__init__()
        self.image_size, self.workers, self.test_pairs = pair(image_size), workers, test_pairs
        self.channels = {"A": channels, "B": channels if channels_b is None else channels_b}
        self._makers, self._options = {"A": a, "B": b}, dict(source or {})
        if load_size is None:
            scale = ENLARGED if crop else 1
            load_size = [round(side * scale) for side in self.image_size]
        self.domains = {
            name: ImageData(
                self._source(name, image_size=pair(load_size)),
                image_size,
                self.channels[name],
                batch_size,
                seed_of(seed, name),
                mirror,
                crop,
                subset,
                workers=workers,
            )
            for name in self._makers
        }
        self.batch_size, self._announced = batch_size, False
        self._without = False  # whether it was said that there are no test images
        self._loader: Loader | None = None
        self.prepare_data_per_node = False  # see `prepare_on_other_nodes`

    def prepare_data(self) -> None:
        for domain in self.domains.values():
            domain.prepare_data()

    def setup(self, stage: str) -> None:
        """Check everything that can be known before training, and log what the data is.

        Raises:
            UserError: when the model does not translate, sizes or batch do not fit together, or
                files cannot be read.
        """
        prepare_on_other_nodes(self)
        if stage == "fit":
            module = self.trainer.lightning_module
            if not module.directions:
                raise UserError(
                    f"{type(module).__name__} makes images from seeds and has no use for two "
                    "domains: choose model=cyclegan, or other data."
                )
            size = module.batch_size or self.batch_size
            batch_size_at(size, module.images_seen, self.trainer.world_size)
        notes = self.check()
        if self.trainer.global_rank == 0 and not self._announced:
            for line in notes:
                log.info(line)
            self._announced = True

    def check(self) -> list[str]:
        """Sentences on what the data is and what becomes of it.

        Raises:
            UserError: when a source and sizes do not fit together, or files cannot be read.
        """
        notes = []
        for name, domain in self.domains.items():
            with self._keys_of(name):
                notes += domain.check()
        return list(dict.fromkeys(notes))  # some hold for both

    def train_dataloader(self) -> DataLoader:
        """Training batches from `images_seen` on, for ever."""
        domains = self._attached()
        self._loader = Loader(
            _Together({name: Batches(domain.source) for name, domain in domains.items()}),
            batch_sampler=_Streams({name: domain.stream() for name, domain in domains.items()}),
            collate_fn=as_it_is,
            num_workers=self.workers,
            pin_memory=self.trainer.lightning_module.device.type == "cuda",
        )
        return self._loader

    @property
    def waited(self) -> float:
        """Seconds that training has waited for batches."""
        return self._loader.waited if self._loader is not None else 0.0

    def first_batch(self) -> dict[str, Batch]:
        """The first batch of `train_dataloader`, loaded in this process and not yet transferred."""
        return {name: domain.first_batch() for name, domain in self._attached().items()}

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Crop, mirror, convert and resize training batches; leave other batches alone."""
        if not self.trainer.training:
            return batch
        return {
            name: domain.on_after_batch_transfer(batch[name], dataloader_idx)["image"]
            for name, domain in self._attached().items()
        }

    def held_out(self) -> dict[str, ImageData]:
        """The test images of A and of B.

        Raises:
            UserError: there are none, or they are part of the training.
        """
        if self._options.get("split") != "train":
            raise UserError(
                "Held-out images are known where data.source.split=train: set that, if the data "
                "has it."
            )
        domains = self.whole(split="test")
        for name, domain in domains.items():
            with self._keys_of(name):
                if not len(domain.source):
                    raise UserError(f"{domain.source.name} holds no images in its test split.")
        return domains

    def tests(self) -> tuple[dict[str, ImageData], bool]:
        """The test images of A and of B, and whether those of the same number are known as pairs.

        Where none are held out, training images take their place.

        Raises:
            UserError: they are no pairs where `test_pairs` says so.
        """
        try:
            domains = self.held_out()
        except UserError as error:
            if not self._without:
                log.info("tests are of training images, since none are held out. %s", error)
            self._without = True
            return self.whole(), False
        a, b = (len(domain.source) for domain in domains.values())
        if self.test_pairs and a != b:
            raise UserError(
                f"There are {a} test images of A and {b} of B, so they are no pairs: set "
                "data.test_pairs=false."
            )
        return domains, self.test_pairs

    def whole(self, **options: Any) -> dict[str, ImageData]:
        """The images of both domains whole, in the size of the batches, each once and not flipped.

        Args:
            options: of the sources, instead of those that training has.
        """
        domains = {}
        for name in self.domains:
            source = self._source(name, image_size=self.image_size, **options)
            domains[name] = ImageData(
                source,
                self.image_size,
                self.channels[name],
                batch_size=1,
                seed=0,
                mirror=False,
                crop="center" if source.varies else None,
                workers=self.workers,
            )
        return domains

    def _source(self, name: str, **options: Any) -> Source:
        with self._keys_of(name):
            try:
                return self._makers[name](**{**self._options, **options})
            except TypeError as error:
                raise UserError(f"data.{name.lower()} does not fit its source: {error}.") from error

    def _attached(self) -> dict[str, ImageData]:
        """The domains, knowing the Trainer."""
        for domain in self.domains.values():
            domain.trainer = self.trainer
        return self.domains

    @contextmanager
    def _keys_of(self, name: str) -> Iterator[None]:
        """Errors name the keys that a domain has for itself as they are called here."""
        try:
            yield
        except UserError as error:
            told = str(error)
            for key in self._makers[name].keywords:
                told = told.replace(f"data.source.{key}", f"data.{name.lower()}.{key}")
            raise UserError(told) from error


class _Together(Dataset):
    def __init__(self, parts: Mapping[str, Batches]) -> None:
        self.parts = parts

    def __getitems__(self, indices: Mapping[str, Indices]) -> dict[str, Batch] | UserError:
        batch = {}
        for name, part in self.parts.items():
            read = part.__getitems__(indices[name])
            if isinstance(read, UserError):
                return read  # see Loader
            batch[name] = read
        return batch


class _Streams:
    """Indices of every domain for each batch."""

    def __init__(self, streams: Mapping[str, Stream]) -> None:
        self.streams = streams

    def __iter__(self) -> Iterator[Any]:
        for indices in zip(*self.streams.values(), strict=True):
            yield dict(zip(self.streams, indices, strict=True))
