"""What a set of images must offer to be trained on."""

import hashlib
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ganzoo.errors import UserError, check_choice


class Source:
    """A numbered set of uint8 images of one size, without any randomness.

    A source defines `name`, `shape`, `__len__` and `__getitems__`, and what else it has of the
    rest. Constructors only look at their arguments: files are opened on first use, so that
    `prepare` can come before. Images are read in other processes, or in a thread beside the
    training step, which may change torch's default dtype: name the types that are computed in.

    Attributes:
        name: for messages.
        shape: channels, height and width of the images as delivered.
        varies: whether images may be larger than `shape` says; then a batch of them is a list of
            uint8 [C, H, W], of which windows are to be shown.
        classes: names in the order of the labels, or None without labels.
        split: the part of the data set that this is, such as "train"; "" without splits.
        notes: sentences on what is converted and how, for the log; UserError when the data could
            not be read in the course of a run.
        problems: sentences on what is there and cannot be opened, beside single images.
    """

    name: str
    shape: tuple[int, int, int]
    varies: bool = False
    classes: list[str] | None = None
    split: str = ""
    notes: Sequence[str] = ()
    problems: Sequence[str] = ()

    @property
    def conversions(self) -> Sequence[str]:
        """The notes, but on what can be read only, without an error for what cannot."""
        return self.notes

    def prepare(self) -> None:
        """Download the data if that was asked for; called in one process, before all else."""

    def held_out(self) -> "Source":
        """The images that training on these never sees, read in the same way.

        Raises:
            UserError: there are none, or they may be among these.
        """
        raise UserError(f"{self.name} has no images that are held out from training.")

    def labels(self) -> Tensor | None:
        """Labels of all images, int64 [len(self)], or None."""
        return None

    def name_of(self, index: int) -> str:
        """What tells image `index` from the others: the path of its file, or its number."""
        return str(index)

    def smaller(self, size: tuple[int, int]) -> "Source | None":
        """The same images reduced to (height, width) by means over 2x2 boxes, where they are at
        hand; None where they would have to be made.
        """
        return None

    def digest(self, indices: Sequence[int]) -> str:
        """SHA-256 of the content of some images and their labels, whatever their names.

        A source may hash what its images are made from, if that takes less time.
        """
        told = hashlib.sha256(repr(self.shape).encode())
        for start in range(0, len(indices), 256):
            batch = self.__getitems__(list(indices[start : start + 256]))
            for value in batch.values():
                told.update(np.ascontiguousarray(value.numpy()).data)
        return told.hexdigest()

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        """{"image": uint8 [n, C, H, W], "label": int64 [n]}, without "label" if there are none.

        Raises UserError with the name of an image that cannot be read.
        """
        raise NotImplementedError


def pair(image_size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) from one int for a square, or from [height, width]; UserError otherwise."""
    size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
        raise UserError(f"image_size must be a positive int or [height, width], not {image_size}.")
    return size[0], size[1]


def check_training(split: str) -> None:
    """Raises UserError unless images of `split` are only for training."""
    if split != "train":
        raise UserError(
            f"Images are held out only from the split train, not from {split or None}: set "
            "data.source.split=train if the data has it."
        )


def part(names: Sequence[str], split: str, held_out: float) -> list[int]:
    """Indices of a split of images that come without one, in ascending order.

    The share `held_out` is "test", the rest "train". Which images these are depends on their names
    alone, so it is the same wherever the data lies and hardly changes when some are added.

    Raises:
        UserError: unknown split, a share outside [0, 1), or nothing held out to be tested on.
    """
    check_choice("data.source.split", split, ["train", "test", "all"])
    if not 0 <= held_out < 1:
        raise UserError(f"data.source.held_out must be a share from 0 to below 1, not {held_out}.")
    if split == "test" and not held_out:
        raise UserError("Nothing is held out: set data.source.held_out, such as 0.1.")
    if split == "all" or not held_out:
        return list(range(len(names)))
    digests = [hashlib.blake2b(name.encode(errors="surrogateescape")).digest() for name in names]
    ranked = sorted(range(len(names)), key=digests.__getitem__)
    count = round(held_out * len(names))
    return sorted(ranked[:count] if split == "test" else ranked[count:])
