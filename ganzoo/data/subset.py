"""Some of the images of a source."""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from operator import attrgetter

import torch
from torch import Generator, Tensor

from ganzoo.data.source import Source
from ganzoo.draws import seed_of
from ganzoo.errors import UserError, first


class Subset(Source):
    """The images of some classes of `source`, or a number of its images.

    Args:
        classes: names of the classes to use, which are numbered in this order; None for all.
        count: number of images to use, None for all. They are the same for every seed, and a
            smaller subset is part of a larger one.
    """

    def __init__(
        self, source: Source, classes: Sequence[str] | None = None, count: int | None = None
    ) -> None:
        if classes is not None and not classes:
            raise UserError("data.only is empty: name some classes, or set it to null.")
        # Hydra reads the names of folders such as 0 and 10 as numbers.
        self.chosen = None if classes is None else [str(name) for name in classes]
        self.source, self.count = source, count
        self.name = source.name

    shape = property(attrgetter("source.shape"))
    varies = property(attrgetter("source.varies"))
    split = property(attrgetter("source.split"))
    folder = property(attrgetter("source.folder"))
    license = property(attrgetter("source.license"))
    problems = property(attrgetter("source.problems"))

    @property
    def classes(self) -> list[str] | None:  # type: ignore[override]
        return self.source.classes if self.chosen is None else list(self.chosen)

    @property
    def notes(self) -> list[str]:  # type: ignore[override]
        part = f"{len(self)} of the {len(self.source)} images of {self.name} are used."
        return [part, *self.source.notes]

    def prepare(self) -> None:
        self.source.prepare()

    def held_out(self) -> Source:
        """All held-out images of the same classes; `count` only limits training."""
        source = self.source.held_out()
        return source if self.chosen is None else Subset(source, self.chosen)

    def labels(self) -> Tensor | None:
        return self._labels

    def name_of(self, index: int) -> str:
        return self.source.name_of(int(self._indices[index]))

    def smaller(self, size: tuple[int, int]) -> "Subset | None":
        source = self.source.smaller(size)
        return None if source is None else Subset(source, self.chosen, self.count)

    def fingerprint(self) -> str:
        return self.source.fingerprint()

    def digest(self, indices: Sequence[int]) -> str:
        digest = self.source.digest(self._indices[list(indices)].tolist())
        if self.chosen is None or self._labels is None:
            return digest
        return hashlib.sha256(
            f"{digest} {self._labels[list(indices)].tolist()}".encode()
        ).hexdigest()

    def __len__(self) -> int:
        return len(self._indices)

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        batch = self.source.__getitems__(self._indices[indices].tolist())
        return batch if self._labels is None else {**batch, "label": self._labels[indices]}

    @cached_property
    def _indices(self) -> Tensor:
        indices = torch.arange(len(self.source))
        if self.chosen is not None:
            indices = indices[self._renumbered >= 0]
        if self.count is not None:
            if self.count > len(indices):
                raise UserError(
                    f"data.subset={self.count} is more than the {len(indices)} images: lower it."
                )
            generator = Generator().manual_seed(seed_of("subset"))
            order = torch.randperm(len(indices), generator=generator)
            indices = indices[order[: self.count].sort().values]
        return indices

    @cached_property
    def _labels(self) -> Tensor | None:
        labels = self._renumbered if self.chosen is not None else self.source.labels()
        return None if labels is None else labels[self._indices]

    @cached_property
    def _renumbered(self) -> Tensor:
        """Labels of all images as numbers of the chosen classes, -1 for other classes."""
        labels, classes = self.source.labels(), self.source.classes
        if labels is None or classes is None or self.chosen is None:
            raise UserError(f"{self.name} has no classes to choose from: set data.only=null.")
        unknown = [name for name in self.chosen if name not in classes]
        if unknown:
            known = first(classes, 30)
            raise UserError(f"There is no class {first(unknown)}: data.only may name {known}.")
        number = torch.tensor(
            [self.chosen.index(name) if name in self.chosen else -1 for name in classes]
        )
        return number[labels]
