"""Where results of image files are written: names, formats, and checks that no file is lost."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from ganzoo.data.decode import MODES
from ganzoo.data.files import One, refuse_among
from ganzoo.data.module import Batch
from ganzoo.data.originals import Originals
from ganzoo.data.visit import Seen, sweep
from ganzoo.errors import UserError, first

# For each extension that can be written, the modes that its format stores, and Pillow's options.
PNG_LIKE = ("L", "LA", "RGB", "RGBA")
FORMATS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    ".png": (PNG_LIKE, {}),
    ".tif": (PNG_LIKE, {}),
    ".tiff": (PNG_LIKE, {}),
    ".webp": (("L", "RGB", "RGBA"), {"lossless": True}),
    ".jpg": (("L", "RGB"), {"quality": 95, "subsampling": 0}),
    ".jpeg": (("L", "RGB"), {"quality": 95, "subsampling": 0}),
    ".bmp": (("L", "RGB"), {}),
    ".ppm": (("RGB",), {}),
    ".pgm": (("L",), {}),
}


class Plan:
    """Where the result of each image is written, and which images are read together.

    `dst` is a folder, or a file for a single image; results have `channels`, besides transparency.
    """

    def __init__(self, source: Originals, dst: Path, channels: int, png: bool) -> None:
        self.source, self.dst = source, dst
        self.bad = dict.fromkeys(source.problems, "the images in it were not translated")
        self.targets: dict[int, Path] = {}  # of each result, by the number of its image
        self._groups: dict[tuple[tuple[int, int], bool], list[int]] = {}
        one_file = isinstance(source.files, One) and dst.suffix.lower() in (*FORMATS, ".npy")
        self.folder = dst.parent if one_file else dst
        with ThreadPoolExecutor() as threads:
            headers = list(threads.map(source.header, range(len(source))))
        for i, header in enumerate(headers):
            name = source.name_of(i)
            if isinstance(header, str):
                self.bad[name] = header
                continue
            kept = source.keep_alpha and header.transparent
            self._groups.setdefault((header.size, kept), []).append(i)
            if one_file:
                self.targets[i] = dst.with_name(target_name(dst.name, channels + kept, False))
            else:
                self.targets[i] = dst / target_name(name, channels + kept, png)

    def check(self, overwrite: bool) -> None:
        """Raises UserError if a file would be lost."""
        places: dict[Path, int] = {}
        for i, path in self.targets.items():
            if path in places:
                both = first([self.source.name_of(j) for j in (places[path], i)])
                raise UserError(f"{both} would both become {path}: omit --png, or rename one.")
            places[path] = i
        files = self.source.files
        reads = {(files.root / name).resolve() for name in files.names} | {files.root.resolve()}
        if not isinstance(files, One):
            refuse_among(self.dst, files.root, "choose a DST outside of it")
        for path in self.targets.values():
            if path.resolve() in reads:
                raise UserError(f"{path} is an input, which is never replaced: choose another DST.")
        there = [str(path) for path in self.targets.values() if path.exists()]
        if there and not overwrite:
            raise UserError(
                f"{len(there)} of the files to write already exist ({first(there)}): choose "
                "another DST, or use --overwrite."
            )

    def read(self, batch: int, workers: int | None) -> Iterator[Seen]:
        """The images in batches of equal size, with a progress bar."""
        chunks = [
            group[start : start + batch]
            for group in self._groups.values()
            for start in range(0, len(group), batch)
        ]
        workers = min(4, os.cpu_count() or 1) if workers is None else workers
        return sweep(self.source, chunks, _batch, min(workers, len(chunks)), "translating")


def target_name(name: str, channels: int, png: bool) -> str:
    """Name of the result of `name`: the same if its format can store that many channels."""
    suffix = PurePosixPath(name).suffix.lower()
    if suffix == ".npy":
        return name
    if channels not in MODES:
        return f"{name}.npy"
    if png:
        return str(PurePosixPath(name).with_suffix(".png"))
    modes, _ = FORMATS.get(suffix, ((), {}))
    return name if MODES[channels] in modes else f"{name}.png"


def write(image: Tensor, path: Path) -> None:
    """Write uint8 [C, H, W] in the format of the extension; arrays are [H, W, C]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = image.permute(1, 2, 0).contiguous().numpy()
    pixels = pixels.squeeze(2) if pixels.shape[2] == 1 else pixels
    if path.suffix.lower() == ".npy":
        np.save(path, pixels)
        return
    _, options = FORMATS[path.suffix.lower()]
    Image.fromarray(pixels).save(path, **options)


def _batch(indices: list[int], batch: Batch) -> Batch:
    return batch
