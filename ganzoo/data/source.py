"""The interface of all data sets, and how a split is held out."""

import copy
import hashlib
import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ganzoo.draws import seed_of
from ganzoo.errors import UserError, check_choice

SAMPLED = 2000  # number of images that stand for all of them where reading all would take long


class Source:
    """A numbered set of uint8 images of one size, without any randomness.

    Subclasses must define `name`, `shape`, `__len__` and `__getitems__`; everything else is
    optional. Constructors only check their arguments: files are opened on first use, so that
    `prepare` can run before. Images are read in other processes, or in a thread next to the
    training step. That step may change torch's default dtype, so computations must name theirs.
    """

    name: str  # for messages
    shape: tuple[int, int, int]  # channels, height and width of the images as delivered
    varies: bool = False  # images may be larger, so that a batch is a list of uint8 [C, H, W]
    classes: list[str] | None = None  # names in the order of the labels; None without labels
    split: str = ""  # the part of the data set that this is, such as "train"
    test_split: str = ""  # the part that training on "train" never sees
    folder: Path | None = None  # where every image would become part of the data
    license: str = ""  # whose images these are, and under which licenses
    # On how images are converted, for the log; reading it raises UserError if files are damaged.
    notes: Sequence[str] = ()
    problems: Sequence[str] = ()  # sentences on folders or archives that cannot be opened

    @property
    def conversions(self) -> Sequence[str]:
        """The notes on files that can be read, without an error for those that cannot."""
        return self.notes

    def prepare(self) -> None:
        """Download the data if the config asks for it; called once, in one process, at first."""

    def held_out(self) -> "Source":
        """The images that training on these never sees; UserError if they may be among these."""
        if not self.test_split:
            raise UserError(f"{self.name} has no images that are held out from training.")
        check_training(self.split)
        other = copy.copy(self)
        for name in vars(self):  # what was read from the files of this split
            if isinstance(getattr(type(self), name, None), cached_property):
                del other.__dict__[name]
        other.split = self.test_split
        if self.name.endswith(f"{self.split})"):
            other.name = self.name.replace(f"{self.split})", f"{other.split})")
        return other

    def labels(self) -> Tensor | None:
        """Labels of all images, int64 [len(self)], or None."""
        return None

    def name_of(self, index: int) -> str:
        """The unique name of image `index`: the path of its file, or its number."""
        return str(index)

    def smaller(self, size: tuple[int, int]) -> "Source | None":
        """The same images reduced to (height, width) by 2x2 box means, None if not stored."""
        return None

    def digest(self, indices: Sequence[int]) -> str:
        """SHA-256 of the content of some images and their labels, independent of their names.

        A source may instead hash the files that its images are made from.
        """
        digest = hashlib.sha256(repr(self.shape).encode())
        for start in range(0, len(indices), 256):
            batch = self.__getitems__(list(indices[start : start + 256]))
            for value in batch.values():
                digest.update(np.ascontiguousarray(value.numpy()).data)
        return digest.hexdigest()

    def fingerprint(self) -> str:
        """SHA-256 that differs if the images do, wherever they are stored; quickly computed."""
        digest = self.digest(evenly(len(self), 200))
        return hashlib.sha256(f"{len(self)} {digest}".encode()).hexdigest()

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


def evenly(length: int, count: int) -> list[int]:
    """At most `count` of `length` places, evenly spaced from the first to the last."""
    return np.linspace(0, length - 1, min(length, count)).astype(int).tolist()


def counted(classes: Sequence[str], labels: Tensor, room: int) -> str:
    """Each class with its number of images, or what fits into `room` characters."""
    counts = torch.bincount(labels, minlength=len(classes)).tolist()
    listed = ", ".join(f"{name} {count}" for name, count in zip(classes, counts, strict=True))
    number = f"{len(classes)} class{'es' if len(classes) != 1 else ''}"
    every = f"{number}: {listed}"
    return every if len(every) <= room else f"{number} with {min(counts)} to {max(counts)} images"


def some(length: int, count: int) -> list[int]:
    """Up to `count` different numbers below `length`, the same each time."""
    generator = torch.Generator().manual_seed(seed_of("some", length))
    return torch.randperm(length, generator=generator)[:count].tolist()


def library(package: str, extra: str) -> Any:
    """A package of the extra dependencies; UserError if it is not installed."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UserError(
            f'The package {package} is missing: run pip install -e ".[{extra}]" in the checkout.'
        ) from error


@contextmanager
def fetching(
    what: str, root: Path, by_hand: str, package: str = "", extra: str = ""
) -> Iterator[None]:
    """Turn errors of a download, or of unpacking, into a sentence.

    `what` is tried, such as "Downloading MNIST"; it may need a package of an extra.
    """
    if package:
        library(package, extra)
    try:
        yield
    except Exception as error:  # libraries raise many types
        why = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(
            f"{what} failed ({why}): check the network, and that {root} can be written to and has "
            f"room. Otherwise the host limits downloads, or a file is damaged. {by_hand}"
        ) from error


def check_training(split: str) -> None:
    """Raises UserError unless images of `split` are only for training."""
    if split != "train":
        raise UserError(f"Images are only held out with data.source.split=train, not {split}.")


def part(names: Sequence[str], split: str, held_out: float) -> list[int]:
    """Indices of the images in a split, in ascending order, for data without published splits.

    The split depends only on the names, so it is the same in every place and archive, and hardly
    changes when images are added.

    Args:
        split: "train", "test" or "all".
        held_out: share of the images that is "test", from 0 to below 1; the rest is "train".
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
