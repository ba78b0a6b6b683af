"""Packed data sets: images in files that are read without decoding.

A pack is a folder:

    HxW.npy      the images, uint8 [n, C, H, W]; more such files for smaller levels
    labels.npy   labels, int64 [n], if there are any
    names.txt    the original name of each image, one JSON string per line
    pack.json    number, shape, classes, levels, SHA-256 of the other files, and origin
"""

import copy
import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ganzoo.config.values import Share, Sides
from ganzoo.data.source import Source, pair, part
from ganzoo.disk import sha256
from ganzoo.errors import UserError

FORMAT = 1
FACTS = "pack.json"


class Pack(Source):
    """The images of a pack.

    Args:
        image_size: int or [height, width]; the level of that size is delivered if there is one,
            else the full size.
        split: "train", "test" or "all".
        held_out: share of the images that is "test"; see `part`.
    """

    test_split = "test"

    def __init__(
        self,
        root: str,
        image_size: Sides | None = None,
        split: str = "train",
        held_out: Share = 0.0,
    ) -> None:
        part([], split, held_out)  # raises UserError for bad options
        self.root, self.split, self.share = Path(root).expanduser(), split, held_out
        self.asked = None if image_size is None else pair(image_size)
        self.name = self.root.name

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the delivered level."""
        levels = [(height, width) for height, width in self.facts["levels"]]
        return self.asked if self.asked in levels else levels[0]

    @property
    def shape(self) -> tuple[int, int, int]:  # type: ignore[override]
        return self.facts["shape"][0], *self.size

    @property
    def classes(self) -> list[str] | None:  # type: ignore[override]
        return self.facts["classes"]

    @property
    def license(self) -> str:  # type: ignore[override]
        return self.facts["from"].get("license", "")

    @property
    def notes(self) -> list[str]:  # type: ignore[override]
        came = self.facts["from"]
        notes = [f"Packed from {came['source']}: {note}" for note in came["notes"]]
        if skipped := len(came["skipped"]):
            notes.append(f"{skipped} images that could not be read were left out when packing.")
        if len(self) < (total := self.facts["images"]):
            notes.append(f"{len(self)} of {total} images are in the {self.split} split.")
        return notes

    def labels(self) -> Tensor | None:
        return self._labels

    def name_of(self, index: int) -> str:
        return self._names[self._rows[index]]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        rows = [self._rows[index] for index in indices]
        # NumPy uses one thread, which leaves the others to the training step.
        batch = {"image": torch.from_numpy(self._images.take(rows, 0))}
        return batch if self._labels is None else {**batch, "label": self._labels[indices]}

    def smaller(self, size: tuple[int, int]) -> "Pack | None":
        if size == self.size or list(size) not in self.facts["levels"]:
            return None
        other = copy.copy(self)
        other.asked = size
        other.__dict__.pop("_images", None)  # those of this level
        return other

    def fingerprint(self) -> str:
        return hashlib.sha256(repr(sorted(self.facts["sha256"].items())).encode()).hexdigest()

    def check(self) -> None:
        """Compare every file with its SHA-256. Raises UserError naming one that differs."""
        for name, digest in self.facts["sha256"].items():
            if sha256(self.root / name) != digest:
                raise damaged(self.root / name, "has changed since packing (its SHA-256 differs)")

    @cached_property
    def facts(self) -> dict[str, Any]:
        """The contents of `pack.json`. Raises UserError if the pack is incomplete."""
        path = self.root / FACTS
        try:
            facts = json.loads(path.read_text())
        except FileNotFoundError as error:
            raise UserError(
                f"There is no pack at {self.root}: make one with python -m ganzoo.prepare pack SRC "
                f"{self.root}, or set data.root to one."
            ) from error
        except (OSError, ValueError) as error:
            raise damaged(path, f"cannot be read ({error})") from error
        if facts.get("format") != FORMAT:
            raise UserError(
                f"{self.root} has pack format {facts.get('format')}, not {FORMAT}: make it again."
            )
        return facts

    @cached_property
    def _images(self) -> np.ndarray:
        return self._open(level_file(self.size), (self.facts["images"], *self.shape))

    @cached_property
    def _labels(self) -> Tensor | None:
        if self.classes is None:
            return None
        labels = torch.from_numpy(self._open("labels.npy", (self.facts["images"],)))
        return labels[torch.tensor(self._rows)]

    @cached_property
    def _names(self) -> list[str]:
        with (self.root / "names.txt").open() as file:
            return [json.loads(line) for line in file]

    @cached_property
    def _rows(self) -> Sequence[int]:
        """The rows of the images in the split."""
        if self.split == "all" or not self.share:  # without reading the names
            return range(self.facts["images"])
        return part(self._names, self.split, self.share)

    def _open(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        path = self.root / name
        try:
            # Copy on write, although nothing is written: torch requires writable memory.
            array = np.load(path, mmap_mode="c")
        except (OSError, ValueError) as error:
            raise damaged(path, f"cannot be read ({error})") from error
        if array.shape != shape:
            raise damaged(path, f"has shape {list(array.shape)}, but {FACTS} says {list(shape)}")
        return array


def damaged(path: Path, how: str) -> UserError:
    """The error for a damaged file of a pack."""
    return UserError(f"{path} {how}: copy or make the pack again.")


def level_file(size: Sequence[int]) -> str:
    """Name of the file of a pack with images of this height and width."""
    return f"{size[0]}x{size[1]}.npy"


def levels_of(size: tuple[int, int]) -> list[tuple[int, int]]:
    """`size` and its halves, as long as they are integers of at least 4 pixels."""
    levels = [size]
    while all(side % 2 == 0 and side >= 8 for side in levels[-1]):
        levels.append((levels[-1][0] // 2, levels[-1][1] // 2))
    return levels


def pyramid(images: Tensor, levels: int) -> Iterator[Tensor]:
    """uint8 [n, C, H, W] and its 2x2 box means, each level rounded half to even.

    The next level is computed from unrounded values (Karras et al. 2018, official code).
    """
    exact = images.float()
    for level in range(levels):
        if level:
            exact = torch.nn.functional.avg_pool2d(exact, 2)
        yield images if level == 0 else exact.round().to(torch.uint8)
