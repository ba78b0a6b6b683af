"""Batches of real images: from a source, in the order of the stream, to floats on the device."""

import copy
import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ganzoo.data.loader import keep_working
from ganzoo.data.source import Source, check_choice, pair
from ganzoo.data.stream import BatchSize, Indices, Size, Stream, batch_size_at
from ganzoo.data.subset import Subset
from ganzoo.draws import Draws, integers, unit
from ganzoo.errors import UserError

log = logging.getLogger(__name__)


class ImageData(L.LightningDataModule):
    """Images of one source, shown to the discriminator in an endless stream.

    A training batch is {"image": [n, C, H, W] in [-1, 1] and in the module's dtype, "label": int64
    [n] where the source has labels}, with the images of all discriminator steps of an iteration in
    their order. Images that the source delivers in another size than `image_size` are cropped if
    `crop` is given, otherwise resized (see `resize`).

    The module that is trained must have `images_seen`, `discriminator_steps`, `batch_size`, a
    function that takes the place of this one's, or None, `shown_size`, and `directions`; see `GAN`.

    Args:
        source: the images.
        image_size: of the batches, one int or [height, width].
        channels: of the batches, for comparison with the source's.
        batch_size: images of one discriminator step over all devices, or a function from images
            seen to it.
        seed: of the order and the crops.
        mirror: show every image twice an epoch, once flipped left to right.
        crop: None, "random" (a window per image, drawn anew each time), or "center".
        subset, classes: use that many images, or those of the named classes; see `Subset`.
        balanced: show every class equally often.
        workers: processes that load images; with 0 a thread of the training process reads ahead.
    """

    trainer: Any  # set by the Trainer; its module is a GAN, which Lightning's types cannot say

    def __init__(
        self,
        source: Source,
        image_size: int | Sequence[int],
        channels: int,
        batch_size: BatchSize,
        seed: int,
        mirror: bool = True,
        crop: str | None = None,
        subset: int | None = None,
        classes: Sequence[str] | None = None,
        balanced: bool = False,
        workers: int = 0,
    ) -> None:
        super().__init__()
        check_choice("data.crop", crop, [None, "random", "center"])
        if subset is not None or classes is not None:
            source = Subset(source, classes, subset)
        self.source, self.image_size, self.channels = source, pair(image_size), channels
        self.batch_size, self.seed, self.mirror = batch_size, seed, mirror
        self.crop, self.balanced, self.workers = crop, balanced, workers
        self.prepare_data_per_node = False  # see `prepare_on_other_nodes`
        self._announced = False
        self._loader: Loader | None = None

    def prepare_data(self) -> None:
        self.source.prepare()

    def setup(self, stage: str) -> None:
        """Check everything that can be known before training, and log what the data is.

        Raises:
            UserError: when source, sizes or batch do not fit together, or files cannot be read.
        """
        prepare_on_other_nodes(self)
        if stage == "fit":
            module = self.trainer.lightning_module
            if module.directions:
                raise UserError(
                    f"{type(module).__name__} translates between two domains: choose data with an "
                    "A and a B, such as data=emoji_unpaired or data=unpaired_folder."
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
            UserError: when source and sizes do not fit together, or files cannot be read.
        """
        channels, height, width = self.source.shape
        if channels != self.channels:
            raise UserError(
                f"{self.source.name} delivers {channels} channel(s) where channels is "
                f"{self.channels}: set channels={channels}, or choose other data."
            )
        if self.crop and (height < self.image_size[0] or width < self.image_size[1]):
            raise UserError(
                f"{self.source.name} delivers {height}x{width}, too small to crop "
                f"{self.image_size[0]}x{self.image_size[1]} out of it: lower image_size, raise "
                "data.source.image_size, or set data.crop=null."
            )
        if self.source.varies and not self.crop:
            raise UserError(
                f"{self.source.name} delivers images of several sizes, out of which windows have "
                "to be cut: set data.crop=random, or resize=crop or stretch for the source."
            )
        if len(self.source) == 0:
            raise UserError(f"{self.source.name} holds no images: choose other data.")
        if self.balanced and self.source.labels() is None:
            raise UserError(
                f"{self.source.name} has no labels to balance: set data.balanced=false."
            )
        notes = self.source.notes  # this is where bad files are found
        return [self._summary(), *notes, *self._own_notes()]

    def train_dataloader(self) -> DataLoader:
        """Training batches from `images_seen` on, for ever."""
        self._loader = Loader(
            Batches(self.source),
            batch_sampler=self.stream(),
            collate_fn=as_it_is,
            num_workers=self.workers,
            pin_memory=self.trainer.lightning_module.device.type == "cuda",
        )
        return self._loader

    @property
    def waited(self) -> float:
        """Seconds that training has waited for batches."""
        return self._loader.waited if self._loader is not None else 0.0

    def first_batch(self) -> dict[str, Tensor]:
        """The first batch of `train_dataloader`, loaded in this process and not yet transferred."""
        batch = Batches(self.source).__getitems__(next(iter(self.stream())))
        if isinstance(batch, UserError):
            raise batch
        return batch

    def first_images(self, n: int) -> Tensor:
        """The first n images of the run, or as many as there are, as networks are shown them.

        The same in every process: [n, C, *image_size] in [-1, 1], in the module's dtype.
        """
        module = self.trainer.lightning_module
        batch = Batches(self.source).__getitems__(self.stream().order(0)[:n].tolist())
        if isinstance(batch, UserError):
            raise batch
        images, mirror = (batch[key].to(module.device) for key in ("image", "mirror"))
        draws = Draws(self.seed, "crop", 0, device=module.device)
        return self.shown(images, mirror, draws).to(module.dtype)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Crop, mirror, convert and resize training batches; leave other batches alone."""
        if not self.trainer.training:
            return batch
        module = self.trainer.lightning_module
        draws = Draws(
            self.seed,
            "crop",
            module.images_seen,
            rank=self.trainer.global_rank,
            world=self.trainer.world_size,
            device=batch["mirror"].device,
        )
        given = {key: value for key, value in batch.items() if key != "mirror"}
        images = self.shown(batch["image"], batch["mirror"], draws, module.discriminator_steps)
        return {**given, "image": images.to(module.dtype)}

    def shown(
        self, images: Tensor | list[Tensor], mirror: Tensor, draws: Draws, steps: int = 1
    ) -> Tensor:
        """What networks are shown of images as they are read.

        Args:
            images: uint8 [N, C, H, W] of the source, or a list of N where sizes vary.
            mirror: bool [N], which of them to flip.
            draws: of the windows, if `crop` is "random".
            steps: of the discriminator, whose batches `images` are, one after the other.

        Returns:
            float32 in [-1, 1], [N, C, *image_size].
        """
        images = self._cropped(images, draws, steps)
        if self.mirror:
            images = mirrored(images, mirror)
        # What is smaller was delivered so: see `GAN.shown_size`.
        small = self._whole and images.shape[-1] < self.image_size[1]
        return to_float(images) if small else resize(to_float(images), self.image_size)

    @property
    def domains(self) -> dict[str, "ImageData"]:
        """The images by their domain: one without a name; two in `Unpaired`."""
        return {"": self}

    def held_out(self) -> dict[str, "ImageData"]:
        """The images that are held out from training, shown as these are, by their domain.

        Raises:
            UserError: there are none, or they are part of the training.
        """
        source = self.source.held_out()
        if not len(source):
            raise UserError(f"{source.name} has no images.")
        others = copy.copy(self)
        others.source = source
        return {"": others}

    def read(self, numbers: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
        """Images by their numbers in the source, as networks are shown them but not flipped.

        uint8 [len(numbers), C, *image_size]; a random window is the same one each time.
        """
        images = moved(self.source.__getitems__(list(numbers))["image"], device)
        plain = torch.zeros(len(numbers), dtype=torch.bool, device=device)
        return to_uint8(self.shown(images, plain, Draws(0, "read", device=device)))

    def describe(self) -> dict[str, Any]:
        """Plain facts: name, number of images, shape [C, H, W] as delivered, images per class."""
        labels, classes = self.source.labels(), self.source.classes
        counts = None
        if labels is not None and classes is not None:
            bins = torch.bincount(labels, minlength=len(classes)).tolist()
            counts = dict(zip(classes, bins, strict=True))
        return {
            "name": self.source.name,
            "images": len(self.source),
            "shape": list(self.source.shape),
            "classes": counts,
        }

    def stream(self) -> Stream:
        """The order in which images are shown, from `images_seen` on."""
        module, length = self.trainer.lightning_module, len(self.source)
        groups = None
        if self.balanced and (labels := self.source.labels()) is not None:
            groups = labels.repeat(2) if self.mirror else labels
        return Stream(
            length=length * 2 if self.mirror else length,
            batch_size=module.batch_size or self.batch_size,
            seed=self.seed,
            start=module.images_seen,
            rank=self.trainer.global_rank,
            world=self.trainer.world_size,
            steps=module.discriminator_steps,
            groups=groups,
            sizes=module.shown_size if self._whole else None,
        )

    @property
    def _whole(self) -> bool:
        """Whether images are shown in the size in which the source delivers them."""
        return self.crop is None and self.source.shape[1:] == self.image_size

    def _cropped(self, images: Tensor | list[Tensor], draws: Draws, steps: int) -> Tensor:
        height, width = self.image_size
        if isinstance(images, list):
            return self._windows_of_any(images, draws, steps)
        down, right = images.shape[-2] - height, images.shape[-1] - width  # room to move
        if self.crop == "center":
            top, left = down // 2, right // 2
            return images[..., top : top + height, left : left + width]
        if self.crop == "random":
            # One draw per discriminator step, because a rank's batch is its share of each of them.
            share = len(images) // steps
            tops = torch.cat([draws.rows(share, of=integers(down + 1)) for _ in range(steps)])
            lefts = torch.cat([draws.rows(share, of=integers(right + 1)) for _ in range(steps)])
            return windows(images, tops, lefts, self.image_size)
        return images

    def _windows_of_any(self, images: list[Tensor], draws: Draws, steps: int) -> Tensor:
        """A window of each of several images [C, H, W] that are no smaller."""
        height, width = self.image_size
        room = torch.tensor([[i.shape[1] - height, i.shape[2] - width] for i in images])
        corners = room // 2
        if self.crop == "random":
            share = len(images) // steps
            places = torch.cat([draws.rows(share, 2, of=unit) for _ in range(steps)]).cpu()
            corners = (places * (room + 1)).long().minimum(room)
        return torch.stack([
            image[:, top : top + height, left : left + width]
            for image, (top, left) in zip(images, corners.tolist(), strict=True)
        ])  # fmt: skip

    def _summary(self) -> str:
        facts = self.describe()
        channels, height, width = facts["shape"]
        least = "at least " if self.source.varies else ""
        what = f"{facts['images']} images of {least}{height}x{width}, {channels} channel(s)"
        line = f"{facts['name']}: {what}"
        counts = facts["classes"]
        if not counts:
            return f"{line}, without labels."
        if len(counts) > 20:
            return (
                f"{line}, {len(counts)} classes of {min(counts.values())} to "
                f"{max(counts.values())} images."
            )
        classes = ", ".join(f"{name} {count}" for name, count in counts.items())
        return f"{line}, {len(counts)} classes: {classes}."

    def _own_notes(self) -> list[str]:
        """Sentences on what becomes of the images that the source delivers."""
        channels, height, width = self.source.shape
        goal_height, goal_width = self.image_size
        notes = []
        if not self.crop and (height, width) != self.image_size:
            note = f"Images are resized from {height}x{width} to {goal_height}x{goal_width}"
            if height * goal_width != width * goal_height:
                note += ", which changes their proportions"
            notes.append(f"{note}.")
        if self.balanced:
            notes.append("Every class is shown equally often.")
        if channels == 2:
            notes.append("Pictures show the first channel of 2.")
        if channels > 4:
            notes.append(f"Pictures show the first three channels of {channels}.")
        return notes


def to_float(images: Tensor) -> Tensor:
    """uint8 in 0..255 to float32 in [-1, 1]: x / 127.5 - 1."""
    return images.float().div_(127.5).sub_(1)


def to_uint8(images: Tensor) -> Tensor:
    """Floats to uint8: round(x * 127.5 + 127.5), values outside [-1, 1] saturate."""
    return images.float().mul(127.5).add_(127.5).round_().clamp_(0, 255).to(torch.uint8)


def mirrored(images: Tensor, which: Tensor) -> Tensor:
    """Images [N, C, H, W], those flipped left to right that `which`, bool [N], says."""
    both = torch.cat([images, images.flip(-1)])  # copying rows is sooner than choosing pixels
    rows = torch.arange(len(images), device=images.device)
    return both.index_select(0, rows + len(images) * which)


def moved(images: Tensor | list[Tensor], device: torch.device | str) -> Tensor | list[Tensor]:
    """Images of a batch, on `device`."""
    return [i.to(device) for i in images] if isinstance(images, list) else images.to(device)


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Float [N, C, H, W] to [N, C, *size].

    A reduction by whole factors is the mean over boxes; anything else is bilinear, antialiased.
    """
    height, width = images.shape[-2:]
    if (height, width) == size:
        return images
    if height % size[0] == 0 and width % size[1] == 0:
        return F.avg_pool2d(images, (height // size[0], width // size[1]))
    return F.interpolate(images, size, mode="bilinear", antialias=True)


def windows(images: Tensor, tops: Tensor, lefts: Tensor, size: tuple[int, int]) -> Tensor:
    """One window per image: [N, C, H, W] to [N, C, *size] with corners at (tops[i], lefts[i])."""
    n, channels = images.shape[:2]
    rows = tops[:, None] + torch.arange(size[0], device=images.device)
    columns = lefts[:, None] + torch.arange(size[1], device=images.device)
    item = torch.arange(n, device=images.device).view(n, 1, 1, 1)
    channel = torch.arange(channels, device=images.device).view(1, channels, 1, 1)
    return images[item, channel, rows[:, None, :, None], columns[:, None, None, :]]


class Batches(Dataset):
    """The source with every index doubled: i >= len(source) is item i - len(source), mirrored."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._smaller: dict[Size, Source] = {}

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor] | UserError:
        length = len(self.source)
        try:
            source = self._at(indices.size if isinstance(indices, Indices) else None)
            batch = source.__getitems__([i % length for i in indices])
        except UserError as error:
            return error  # see Loader
        return {**batch, "mirror": torch.tensor([i >= length for i in indices])}

    def _at(self, size: Size | None) -> Source:
        """The source at that size, if it has it at hand."""
        if size is None:
            return self.source
        if size not in self._smaller:
            self._smaller[size] = self.source.smaller(size) or self.source
        return self._smaller[size]


def prepare_on_other_nodes(data: L.LightningDataModule) -> None:
    """Prepare data where the first node's is not seen, one process a node.

    By then the first process of all is done, so nodes that share a folder find it there and do not
    write into it at the same time.
    """
    trainer = data.trainer
    if trainer is not None and trainer.num_nodes > 1:
        if trainer.local_rank == 0 and trainer.global_rank != 0:
            data.prepare_data()
        trainer.strategy.barrier()


class Loader(DataLoader):
    """Raises the UserErrors that arrive in place of batches; without workers, reads one ahead.

    An exception that leaves a worker gets the worker's traceback for a message; a value does not.

    Attributes:
        waited: seconds that were spent waiting for batches.
    """

    waited = 0.0

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"worker_init_fn": keep_working, **options})

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        read = super().__iter__()
        batches = read if self.num_workers else _ahead(read)
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - start
            if batch is None:
                return
            if isinstance(batch, UserError):
                raise batch
            yield batch


def _ahead(batches: Iterator[Any]) -> Iterator[Any]:
    """The same batches, the next one being read by a thread while one is used."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = thread.submit(next, batches, None)
            yield batch


def as_it_is(batch: Any) -> Any:
    return batch
