"""Batches of real images: from a source, in the order of the stream, to floats on the device."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ganzoo.config.values import Positive, Seed, Sides, Workers
from ganzoo.data.loader import Batches
from ganzoo.data.module import DataModule, read
from ganzoo.data.pixels import mirrored, moved, resize, to_float, to_uint8, windows
from ganzoo.data.source import Source, counted, pair
from ganzoo.data.stream import BatchSize, Stream
from ganzoo.data.subset import Subset
from ganzoo.draws import Draws, integers, unit
from ganzoo.errors import UserError, check_choice

LINE = 110  # characters of the line that says what the data is, where classes are listed


class ImageData(DataModule):
    """Images of one source, shown to the discriminator in an endless stream.

    A training batch is {"image": [n, C, H, W] in [-1, 1] and in the module's dtype, "label": int64
    [n] if the source has labels}, with the images of all discriminator steps of an iteration one
    step after the other. Images of another size are cropped if `crop` is given, else resized.

    Args:
        image_size: size of the images in a batch, one int or [height, width].
        channels: expected number of channels, compared with that of the source.
        batch_size, workers, accept_changed: see `DataModule`.
        seed: random seed of the order and of the crops.
        mirror: show every image twice an epoch, once flipped left to right.
        crop: None, "random" (another window of the image each time), or "center".
        subset, only: number of images to use, names of classes to use; see `Subset`.
        balanced: show every class equally often.
        root: unused here; where the files are, which a config passes on to its source.
    """

    def __init__(
        self,
        source: Source,
        image_size: Sides,
        channels: int,
        batch_size: BatchSize,
        seed: Seed,
        mirror: bool = True,
        crop: str | None = None,
        subset: Positive | None = None,
        only: Sequence[str] | None = None,
        balanced: bool = False,
        workers: Workers | None = 0,
        accept_changed: bool = False,
        root: str | None = None,
    ) -> None:
        super().__init__(batch_size, workers, accept_changed)
        check_choice("data.crop", crop, [None, "random", "center"])
        if subset is not None or only is not None:
            source = Subset(source, only, subset)
        self.source, self.image_size, self.channels = source, pair(image_size), channels
        self.seed, self.mirror, self.crop, self.balanced = seed, mirror, crop, balanced

    def prepare_data(self) -> None:
        self.source.prepare()

    def check(self) -> list[str]:
        channels, height, width = self.source.shape
        if channels != self.channels:
            raise UserError(
                f"{self.source.name} has {channels} channel(s), not {self.channels}: set "
                f"channels={channels}, or choose other data."
            )
        if self.crop and (height < self.image_size[0] or width < self.image_size[1]):
            raise UserError(
                f"{self.source.name} delivers {height}x{width}, which is too small to crop "
                f"{self.image_size[0]}x{self.image_size[1]} from: raise data.source.image_size."
            )
        if self.source.varies and not self.crop:
            raise UserError(
                f"{self.source.name} delivers images of several sizes: set data.crop=random, or "
                "data.source.resize=crop or stretch."
            )
        if len(self.source) == 0:
            raise UserError(f"{self.source.name} has no images: choose other data.")
        if self.balanced and self.source.labels() is None:
            raise UserError(
                f"{self.source.name} has no labels to balance: set data.balanced=false."
            )
        notes = self.source.notes  # raises UserError if files are damaged
        return [self._summary(), *notes, *self._own_notes()]

    def batches(self) -> tuple[Batches, Stream]:
        return Batches(self.source), self.stream()

    def first_images(self, n: int) -> Tensor:
        """The first n images of the run, or all if there are fewer, as networks see them.

        The same in every process: [n, C, *image_size] in [-1, 1], in the module's dtype.
        """
        module = self.trainer.lightning_module
        batch = read(Batches(self.source), self.stream().order(0)[:n].tolist())
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
        """Images as networks see them: cropped, mirrored, converted and resized.

        Args:
            images: images of the source, uint8 [N, C, H, W], or a list of N if sizes vary.
            mirror: whether to flip each image, bool [N].
            draws: random numbers for the windows, if `crop` is "random".
            steps: number of discriminator steps, whose batches stand in `images` one after another.

        Returns:
            float32 in [-1, 1], [N, C, *image_size].
        """
        images = self._cropped(images, draws, steps)
        if self.mirror:
            images = mirrored(images, mirror)
        # Growing models ask the source for less than image_size: see `GAN.shown_size`.
        small = self._whole and images.shape[-1] < self.image_size[1]
        return to_float(images) if small else resize(to_float(images), self.image_size)

    @property
    def domains(self) -> dict[str, "ImageData"]:
        """The images of each domain: here one domain without a name."""
        return {"": self}

    def held_out(self) -> dict[str, "ImageData"]:
        """The images of each domain that are held out from training, cropped and resized alike."""
        source = self.source.held_out()
        if not len(source):
            raise UserError(f"{source.name} has no images.")
        others = copy.copy(self)
        others.source = source
        return {"": others}

    def plain(
        self, numbers: Sequence[int], device: torch.device | str = "cpu"
    ) -> tuple[Tensor, Tensor | None]:
        """Images by their numbers in the source, as networks see them, but never flipped.

        [len(numbers), C, *image_size] in [-1, 1], and their labels if there are any. A random
        window is the same each time.
        """
        batch = self.source.__getitems__(list(numbers))
        flipped = torch.zeros(len(numbers), dtype=torch.bool, device=device)
        draws = Draws(0, "shown", device=device)
        labels = batch.get("label")
        return (
            self.shown(moved(batch["image"], device), flipped, draws),
            None if labels is None else labels.to(device),
        )

    def read(self, numbers: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
        """The images of `plain` in 8 bits, uint8."""
        return to_uint8(self.plain(numbers, device)[0])

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
        """Whether the source delivers images in the size in which they are shown."""
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
        """One window from each of several images [C, H, W], which are at least as large."""
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
        source = self.source
        channels, height, width = source.shape
        least = "at least " if source.varies else ""
        size = f"{least}{height}x{width}, {channels} channel{'s' if channels != 1 else ''}"
        line = f"{source.name}: {len(source)} images of {size}, "
        labels, classes = source.labels(), source.classes
        if labels is None or classes is None:
            return f"{line}without labels."
        return f"{line}{counted(classes, labels, LINE - len(line) - 1)}."

    def _own_notes(self) -> list[str]:
        """Sentences on how the images are converted after the source has delivered them."""
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
