"""The embedded data set: all emoji of Unicode 16.0 as drawn by two vendors (see NOTICE.md)."""

from functools import cache, cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ganzoo.config.values import Sides
from ganzoo.data.source import Source, pair
from ganzoo.errors import UserError, check_choice

PACK = Path(__file__).parent / "emoji64.zip"
SIDE = 64
# The tenth category, Component, has only five swatches of skin color and is left out.
CLASSES = [
    "Smileys & Emotion", "People & Body", "Animals & Nature", "Food & Drink", "Travel & Places",
    "Activities", "Objects", "Symbols", "Flags",
]  # fmt: skip
ATTRIBUTION = (
    "Emoji images: Noto Emoji by Google, Apache License 2.0; Twemoji by Twitter, Inc and other "
    "contributors, CC-BY 4.0 (https://creativecommons.org/licenses/by/4.0/), laid on white. "
    "Names and categories: emoji-data by Cal Henderson, MIT License."
)


class Emoji(Source):
    """Emoji on white, labeled by category.

    Args:
        vendor: "noto", "twemoji", or "both": all of Noto's images, then all of Twemoji's.
        split: "train", "test" (a tenth of each category), or "all".
        variants: whether to add the skin tones of each person, which are most of People & Body.
        image_size: 64, or 64 divided by a power of two; smaller images are box means.
        channels: 3, or 1 for luminance (ITU-R 601).
    """

    test_split = "test"
    license = ATTRIBUTION

    def __init__(
        self,
        vendor: str = "noto",
        split: str = "train",
        variants: bool = True,
        image_size: Sides = SIDE,
        channels: int = 3,
    ) -> None:
        check_choice("data.source.vendor", vendor, ["noto", "twemoji", "both"])
        check_choice("data.source.split", split, ["train", "test", "all"])
        check_choice("channels", channels, [1, 3])
        height, width = pair(image_size)
        if height != width or SIDE % height:
            raise UserError(
                f"The emoji come in 64x64, 32x32, 16x16 and so on, not in {height}x{width}: choose "
                "one of these as image_size, or set data.source.image_size=64 to resize from that."
            )
        self.name = f"emoji ({vendor}, {split})"
        self.vendors = ["noto", "twemoji"] if vendor == "both" else [vendor]
        self.split, self.variants, self.classes = split, variants, CLASSES
        self.shape = channels, height, width
        self.notes = []
        if height != SIDE:
            self.notes.append(f"Emoji are reduced from 64x64 to {height}x{width} by box means.")
        if channels == 1:
            self.notes.append("Emoji are converted from RGB to luminance (ITU-R 601).")

    def labels(self) -> Tensor:
        return self._labels

    def __len__(self) -> int:
        return len(self._labels)

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        return {"image": self._images[indices], "label": self._labels[indices]}

    @cached_property
    def _chosen(self) -> np.ndarray:
        chosen = _array("label") < len(CLASSES)
        if self.split != "all":
            chosen &= _array("test") == (self.split == "test")
        if not self.variants:
            chosen &= ~_array("variant")
        return chosen

    @cached_property
    def _labels(self) -> Tensor:
        label = _array("label")[self._chosen].astype(np.int64)
        return torch.from_numpy(np.tile(label, len(self.vendors)))

    @cached_property
    def _images(self) -> Tensor:
        images = np.concatenate([_array(vendor)[self._chosen] for vendor in self.vendors])
        if self.shape[1] != SIDE:
            images = box_mean(images, SIDE // self.shape[1])
        if self.shape[0] == 1:
            images = luminance(images)
        return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


@cache  # unpacking takes about half a second for each vendor
def _array(name: str) -> np.ndarray:
    with np.load(PACK) as pack:
        return pack[name]


def box_mean(images: np.ndarray, factor: int) -> np.ndarray:
    """Means over factor x factor pixels, rounded half up: uint8 NHWC. The factor is 2, 4, 8..."""
    sums = images
    for _ in range(factor.bit_length() - 1):  # much faster than a sum over boxes
        sums = np.add(sums[:, ::2], sums[:, 1::2], dtype=np.uint32)
        sums = np.add(sums[:, :, ::2], sums[:, :, 1::2], dtype=np.uint32)
    return ((sums + factor**2 // 2) // factor**2).astype(np.uint8)


def luminance(images: np.ndarray) -> np.ndarray:
    """ITU-R 601 luma as Pillow rounds it: uint8 [N, H, W, 3] to [N, H, W, 1]."""
    weights = np.array([19595, 38470, 7471], np.uint32)  # 0.299, 0.587, 0.114 in units of 1 / 65536
    luma = (images.astype(np.uint32) * weights).sum(-1, keepdims=True)
    return ((luma + 32768) >> 16).astype(np.uint8)
