"""What a set of images must offer to be trained on."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from ganzoo.errors import UserError


class Source(Protocol):
    """A numbered set of uint8 images of one size, without any randomness.

    Constructors only look at their arguments: files are opened on first use, so that `prepare` can
    come before.
    """

    name: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images as delivered."""

    @property
    def classes(self) -> list[str] | None:
        """Names in the order of the labels, or None without labels."""

    @property
    def notes(self) -> list[str]:
        """Sentences on what is converted and how, for the log.

        Raises UserError when the data could not be read in the course of a run.
        """

    def prepare(self) -> None:
        """Download the data if that was asked for; called in one process, before all else."""

    def labels(self) -> Tensor | None:
        """Labels of all images, int64 [len(self)], or None."""

    def __len__(self) -> int: ...

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        """{"image": uint8 [n, C, H, W], "label": int64 [n]}, without "label" if there are none."""


def pair(image_size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) from one int for a square, or from [height, width]; UserError otherwise."""
    size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
        raise UserError(f"image_size must be a positive int or [height, width], not {image_size}.")
    return size[0], size[1]


def check_choice(key: str, value: object, choices: Sequence[object]) -> None:
    """Raises UserError naming `key` and the choices when `value` is none of them."""
    if value not in choices:
        offered = ", ".join(map(str, choices))
        raise UserError(f"{key} must be one of {offered}, not {value}.")
