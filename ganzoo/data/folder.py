"""Any tree of image files."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from ganzoo.data.source import check_choice, pair
from ganzoo.errors import UserError

EXTENSIONS = [".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"]
LOOKED_AT = 2000  # files whose headers are read before training


class Folder:
    """All images below a folder, sorted by path, brought to one size and to RGB or gray.

    Files and folders whose names start with a dot are ignored, links are followed. EXIF orientation
    is applied, transparency laid on white, 16-bit gray scaled by 1 / 257. 16-bit color is reduced
    by Pillow, color profiles are not applied, and of animations the first frame is used.

    Args:
        root: the folder.
        image_size: size to deliver, one int or [height, width].
        channels: 3 for RGB, 1 for luminance (ITU-R 601).
        labels: whether the folders in `root` are classes; None: if every image lies in one of them.
        resize: "crop" takes the largest centered window of the right proportions, "stretch" the
            whole image. Reduction by a whole factor is a mean over boxes, anything else Lanczos.
    """

    def __init__(
        self,
        root: str,
        image_size: int | Sequence[int],
        channels: int = 3,
        labels: bool | None = None,
        resize: str = "crop",
    ) -> None:
        check_choice("channels", channels, [1, 3])
        check_choice("data.source.resize", resize, ["crop", "stretch"])
        self.root, self.size, self.channels = Path(root), pair(image_size), channels
        self.with_labels, self.resize = labels, resize
        self.name = self.root.name or str(root)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, *self.size

    @property
    def classes(self) -> list[str] | None:
        return self._listing.classes

    @cached_property
    def notes(self) -> list[str]:
        """What is converted, from the headers of all files, or of 2000 of them.

        Raises:
            UserError: naming files that cannot be read.
        """
        paths = self._listing.paths
        places = np.linspace(0, len(paths) - 1, min(len(paths), LOOKED_AT)).astype(int)
        chosen = [paths[i] for i in places]
        with ThreadPoolExecutor() as threads:
            headers = list(threads.map(self._header, chosen))
        bad = [name for name, header in zip(chosen, headers, strict=True) if header is None]
        if bad:
            raise UserError(
                f"{len(bad)} of {len(chosen)} images that were looked at in {self.root} cannot be "
                f"read ({_first(bad)}): remove them or save them again as 8-bit PNG."
            )
        good = [header for header in headers if header is not None]
        return self._ignored_notes() + self._conversion_notes(good)

    def prepare(self) -> None:
        """Nothing to do."""

    def labels(self) -> Tensor | None:
        return self._listing.labels

    def __len__(self) -> int:
        return len(self._listing.paths)

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        listing = self._listing
        pixels = np.stack([self._load(listing.paths[i]) for i in indices])
        batch = {"image": torch.from_numpy(pixels)}
        return batch if listing.labels is None else {**batch, "label": listing.labels[indices]}

    @cached_property
    def _listing(self) -> "_Listing":
        if not self.root.is_dir():
            raise UserError(f"There is no folder {self.root}: set data.source.root to your images.")
        names = sorted(_files(self.root))
        paths = [name for name in names if Path(name).suffix.lower() in EXTENSIONS]
        others = [name for name in names if Path(name).suffix.lower() not in EXTENSIONS]
        if not paths:
            raise UserError(
                f"{self.root} holds no images ({', '.join(EXTENSIONS)}): set data.source.root to a "
                "folder that does."
            )
        loose = [name for name in paths if "/" not in name]
        if self.with_labels and loose:
            raise UserError(
                f"{len(loose)} images lie in no class folder of {self.root} ({_first(loose)}): "
                "move them into one, or set data.source.labels=false."
            )
        if loose or self.with_labels is False:
            return _Listing(paths, others, None, None)
        tops = [name.split("/", 1)[0] for name in paths]
        classes = sorted(set(tops))
        number = {name: label for label, name in enumerate(classes)}
        return _Listing(paths, others, classes, torch.tensor([number[top] for top in tops]))

    def _load(self, name: str) -> np.ndarray:
        try:
            return decode(self.root / name, self.size, self.channels, self.resize)
        except Exception as error:  # Pillow's decoders raise many types
            raise UserError(
                f"{self.root / name} cannot be read ({error}): remove it or save it again."
            ) from error

    def _header(self, name: str) -> "_Header | None":
        try:
            with Image.open(self.root / name) as image:
                if image.mode == "F":
                    return None  # no known range
                return _Header(
                    image.mode,
                    _upright_size(image),
                    image.has_transparency_data,
                    _orientation(image) > 1,
                    getattr(image, "n_frames", 1) > 1,
                )
        except Exception:  # Pillow's decoders raise many types; the caller names the file
            return None

    def _ignored_notes(self) -> list[str]:
        others = self._listing.others
        if not others:
            return []
        kinds = sorted({Path(name).suffix.lower() or "no extension" for name in others})
        return [f"{len(others)} files of {self.root} are no images and ignored: {_first(kinds)}."]

    def _conversion_notes(self, headers: "list[_Header]") -> list[str]:
        height, width = self.size
        goal = {1: "gray", 3: "RGB"}[self.channels]
        native = {1: "L", 3: "RGB"}[self.channels]
        how = {"crop": "cropped at the center and resized", "stretch": "resized"}[self.resize]
        modes = Counter(header.mode for header in headers if header.mode != native)
        counts = {
            **{f"are {mode}: converted to {goal}": n for mode, n in sorted(modes.items())},
            "have transparency: laid on white": sum(header.transparent for header in headers),
            "are turned by their EXIF orientation": sum(header.turned for header in headers),
            "have several frames: the first is used": sum(header.frames for header in headers),
            f"are not {height}x{width}: {how}": sum(
                header.size != (width, height) for header in headers
            ),
            f"are smaller than {height}x{width}: enlarged": sum(
                header.size[0] < width or header.size[1] < height for header in headers
            ),
        }
        total = f"{len(headers)} images"
        if len(headers) < len(self):
            total += f" looked at (there are {len(self)})"
        return [f"{count} of {total} {what}." for what, count in counts.items() if count]


def decode(path: Path, size: tuple[int, int], channels: int, resize: str = "crop") -> np.ndarray:
    """The image in `path` as uint8 [channels, *size], as class Folder says.

    Raises whatever Pillow raises, and ValueError for pixels of unknown range.
    """
    height, width = size
    with Image.open(path) as image:
        # JPEG can be decoded at a half, quarter or eighth of its size; twice the goal is left, for
        # the resizing filter to decide how the result looks.
        side = 2 * max(height, width)
        image.draft(None, (side, side))
        upright = ImageOps.exif_transpose(image)
        flat = _flat(upright).convert("L" if channels == 1 else "RGB")
    window_width, window_height = float(flat.width), float(flat.height)
    if resize == "crop":
        window_width = min(window_width, flat.height * width / height)
        window_height = min(window_height, flat.width * height / width)
    left, top = (flat.width - window_width) / 2, (flat.height - window_height) / 2
    factor = window_width / width
    if factor.is_integer() and window_height == factor * height:
        left, top = int(left), int(top)  # whole pixels, for exact means
        right, bottom = left + int(window_width), top + int(window_height)
        flat = flat.reduce(int(factor), (left, top, right, bottom))
    else:
        window = (left, top, left + window_width, top + window_height)
        flat = flat.resize((width, height), Image.Resampling.LANCZOS, window)
    pixels = np.asarray(flat)
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


class _Listing(NamedTuple):
    paths: list[str]  # below the root, with forward slashes
    others: list[str]
    classes: list[str] | None
    labels: Tensor | None


class _Header(NamedTuple):
    mode: str
    size: tuple[int, int]  # width, height after turning
    transparent: bool
    turned: bool
    frames: bool


def _files(root: Path) -> Iterable[str]:
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith("."):
                yield Path(folder, name).relative_to(root).as_posix()


def _flat(image: Image.Image) -> Image.Image:
    """Without transparency and in 8 bits, in whatever color mode."""
    if image.mode == "F":
        raise ValueError("floating point pixels have no fixed range")
    if image.mode.startswith("I"):
        pixels = np.asarray(image).astype(np.int64)
        if pixels.min() < 0 or pixels.max() > 65535:
            raise ValueError("pixels of more than 16 bits")
        return Image.fromarray(((pixels + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image


def _orientation(image: Image.Image) -> int:
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # asking further would decode all pixels, to look for EXIF behind them
    return image.getexif().get(ExifTags.Base.Orientation, 1)


def _upright_size(image: Image.Image) -> tuple[int, int]:
    width, height = image.size
    return (height, width) if _orientation(image) >= 5 else (width, height)


def _first(names: Sequence[str], count: int = 5) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")
