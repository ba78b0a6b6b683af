"""Batches of images of two domains that are not paired."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch.utils.data import Dataset

from ganzoo.config.values import Positive, Seed, Sides, Workers, check_call
from ganzoo.data.images import ImageData
from ganzoo.data.loader import Batches
from ganzoo.data.module import Batch, DataModule
from ganzoo.data.source import Source, check_training, pair
from ganzoo.data.stream import BatchSize, Indices, Stream
from ganzoo.draws import seed_of
from ganzoo.errors import UserError

log = logging.getLogger(__name__)

ENLARGED = 286 / 256  # size to crop from, relative to the crop, as in the authors' code


class Unpaired(DataModule):
    """Two sets of images, A and B, each shown in an endless stream of its own.

    A training batch is {"A": [n, C_a, H, W], "B": [n, C_b, H, W]}, in [-1, 1] and in the module's
    dtype. The two streams have different seeds, so that images meet by chance. Each domain is an
    `ImageData`. Test images are shown in full, in the size of the batches, and not flipped.

    Args:
        a, b: functions that make the source of a domain from `image_size` and the options in
            `source`.
        image_size: size of the images in a batch, one int or [height, width].
        channels, channels_b: number of channels of A and of B; None for the same as A.
        batch_size, workers, accept_changed: see `DataModule`; a batch has that many images of each
            domain.
        seed: random seed of the order and of the crops.
        source: options of both sources; there are test images only if `split` is "train".
        load_size: size that the sources deliver, to be cropped. None for `image_size`, times
            286/256 if `crop` is given: Zhu et al. 2017 (appendix 7.1) resize to 286 and crop 256.
        crop: None, "random" (another window of the image each time), or "center".
        subset: number of images of each domain to use; see `Subset`.
        test_pairs: whether image i of A's test images and image i of B's show the same thing.
        root: unused here; where the files are, which a config passes on to `source`.
    """

    def __init__(
        self,
        a: partial[Source],
        b: partial[Source],
        image_size: Sides,
        channels: int,
        batch_size: BatchSize,
        seed: Seed,
        source: Mapping[str, Any] | None = None,
        channels_b: int | None = None,
        load_size: int | Sequence[int] | None = None,
        crop: str | None = "random",
        mirror: bool = True,
        subset: Positive | None = None,
        test_pairs: bool = False,
        workers: Workers | None = 0,
        accept_changed: bool = False,
        root: str | None = None,
    ) -> None:
        super().__init__(batch_size, workers, accept_changed)
        self.image_size, self.test_pairs = pair(image_size), test_pairs
        self.channels = {"A": channels, "B": channels if channels_b is None else channels_b}
        self._makers, self._options = {"A": a, "B": b}, dict(source or {})
        if load_size is None:
            scale = ENLARGED if crop else 1
            load_size = [round(side * scale) for side in self.image_size]
        self._domains = {
            name: ImageData(
                self._source(name, image_size=pair(load_size)),
                image_size,
                self.channels[name],
                batch_size,
                seed_of(seed, name),
                mirror,
                crop,
                subset,
                workers=self.workers,
            )
            for name in self._makers
        }

    @property
    def domains(self) -> dict[str, ImageData]:
        return self._domains

    def prepare_data(self) -> None:
        for domain in self.domains.values():
            domain.prepare_data()

    def check(self) -> list[str]:
        notes = []
        for name, domain in self.domains.items():
            with self._keys_of(name):
                notes += domain.check()
        return list(dict.fromkeys(notes))  # each note once, even if it holds for both

    def batches(self) -> "tuple[_Together, _Streams]":
        domains = self._attached()
        return (
            _Together({name: Batches(domain.source) for name, domain in domains.items()}),
            _Streams({name: domain.stream() for name, domain in domains.items()}),
        )

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Crop, mirror, convert and resize training batches; leave other batches alone."""
        if not self.trainer.training:
            return batch
        return {
            name: domain.on_after_batch_transfer(batch[name], dataloader_idx)["image"]
            for name, domain in self._attached().items()
        }

    def held_out(self) -> dict[str, ImageData]:
        """The test images of A and of B; UserError if there are none."""
        check_training(self._options.get("split", ""))
        domains = self.whole(split="test")
        for name, domain in domains.items():
            with self._keys_of(name):
                if not len(domain.source):
                    raise UserError(f"{domain.source.name} has no images in its test split.")
        return domains

    def tests(self) -> tuple[dict[str, ImageData], bool]:
        """Test (or else training) images of A and B, and whether images of one number are pairs."""
        try:
            domains = self.held_out()
        except UserError as error:
            log.info("Tests use training images because none are held out. %s", error)
            return self.whole(), False
        a, b = (len(domain.source) for domain in domains.values())
        if self.test_pairs and a != b:
            raise UserError(
                f"There are {a} test images of A and {b} of B, so they cannot be pairs: set "
                "data.test_pairs=false."
            )
        return domains, self.test_pairs

    def whole(self, **options: Any) -> dict[str, ImageData]:
        """The images of both domains in full, in the size of the batches, once and not flipped.

        `options` are those of the sources that differ from training.
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
            given = {**self._options, **options}
            check_call(self._makers[name].func, given, "data.source")
            try:
                return self._makers[name](**given)
            except TypeError as error:
                raise UserError(f"data.{name.lower()} does not fit its source: {error}.") from error

    def _attached(self) -> dict[str, ImageData]:
        """The domains, with the Trainer set, which Lightning only does for this object."""
        for domain in self.domains.values():
            domain.trainer = self.trainer
        return self.domains

    @contextmanager
    def _keys_of(self, name: str) -> Iterator[None]:
        """In errors, replace `data.source.KEY` by `data.a.KEY` for keys of one domain."""
        try:
            yield
        except UserError as error:
            message = str(error)
            for key in self._makers[name].keywords:
                for old in (f"data.source.{key}", f"data.{key}"):
                    message = message.replace(old, f"data.{name.lower()}.{key}")
            raise UserError(message) from error


class _Together(Dataset):
    """A batch of every domain."""

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
    """The indices of every domain for each batch."""

    def __init__(self, streams: Mapping[str, Stream]) -> None:
        self.streams = streams

    def __iter__(self) -> Iterator[Any]:
        for indices in zip(*self.streams.values(), strict=True):
            yield dict(zip(self.streams, indices, strict=True))
