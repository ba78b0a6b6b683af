"""python -m ganzoo.translate CKPT SRC DST: every image of a folder as the other domain shows it.

Names, folders and sizes are kept. What cannot be read is listed at the end, and the exit code is 1.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ganzoo.data.decode import EXTENSIONS, MODES
from ganzoo.data.files import One, open_files
from ganzoo.data.module import Batch
from ganzoo.data.originals import WHITE, Originals
from ganzoo.data.pixels import to_float, to_uint8
from ganzoo.data.visit import Seen, sweep
from ganzoo.engine.checkpoint import load
from ganzoo.engine.gan import GAN, translated
from ganzoo.errors import UserError, first, shown
from ganzoo.pictures.page import Page

# Endings of what is written as its source was, the modes that it holds, and Pillow's options.
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
PAGE = "index.html"


class Done(NamedTuple):
    """What came of the images: how many were written, and why others were not, by name."""

    written: int
    bad: dict[str, str]
    ignored: int  # files that are no images
    seconds: float


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    options = {k: v for k, v in vars(args).items() if k not in ("checkpoint", "device")}
    try:
        done = translate(load(args.checkpoint, device_named(args.device)), **options)
    except UserError as error:
        sys.exit(f"ganzoo.translate: {shown(str(error))}")
    except OSError as error:
        sys.exit(
            f"ganzoo.translate: {args.dst} cannot be written ({error.strerror or error}): make "
            "room, or choose another DST."
        )
    except KeyboardInterrupt:
        sys.exit("ganzoo.translate: interrupted; give --overwrite to do it all again.")
    speed = f"{done.written / done.seconds:.1f} images/s"
    print(f"{done.written} images in {done.seconds:.1f} s ({speed}): {shown(str(args.dst))}")
    if done.ignored:
        print(f"{done.ignored} files are no images and were left out.")
    if done.bad:
        print(f"{len(done.bad)} could not be translated:")
        for name, why in done.bad.items():
            print(f"  {shown(name)}: {shown(why)}")
        sys.exit(1)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ganzoo.translate", description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="a .ckpt file or a run folder")
    parser.add_argument("src", type=Path, help="a folder with all below it, a zip, a tar, an image")
    parser.add_argument("dst", type=Path, help="a folder; of one image also a file")
    parser.add_argument("--direction", default="AtoB", help="AtoB or BtoA (%(default)s)")
    parser.add_argument("--batch", type=int, default=8, help="images of one size at a time (8)")
    parser.add_argument("--raw", action="store_true", help="the generators, not their average")
    parser.add_argument(
        "--alpha", type=color, metavar="keep|R,G,B",
        help="keep transparency (what is translated lies on white), or lay it on a color",
    )  # fmt: skip
    parser.add_argument("--png", action="store_true", help="write PNG: photo.jpg to photo.png")
    parser.add_argument("--page", action="store_true", help=f"{PAGE}: all before and after")
    parser.add_argument("--overwrite", action="store_true", help="replace what is in DST")
    parser.add_argument("--workers", type=int, help="processes that read; one a core, at most 4")
    parser.add_argument(
        "--device", default="auto", help="cuda, cpu, or auto: a GPU if there is one"
    )
    return parser.parse_args(argv)


def color(text: str) -> tuple[int, int, int] | None:
    """A color from text such as `255,255,255`; None for `keep`."""
    if text == "keep":
        return None
    parts = text.split(",")
    if len(parts) != 3 or not all(p.isdecimal() and int(p) < 256 for p in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is neither keep nor a color such as 255,0,127")
    return int(parts[0]), int(parts[1]), int(parts[2])


def device_named(name: str) -> torch.device:
    """A device; UserError if it is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # so torch says that there is none
        raise UserError(f"--device {name} is not to be had: give cpu or cuda.") from error


def translate(
    gan: GAN,
    src: str | Path,
    dst: str | Path,
    direction: str = "AtoB",
    batch: int = 8,
    raw: bool = False,
    alpha: tuple[int, int, int] | None = None,
    png: bool = False,
    page: bool = False,
    overwrite: bool = False,
    workers: int | None = None,
) -> Done:
    """Translate every image of `src`, each under its own name and in its own size, into `dst`.

    A result is written in the format of its source where that can hold it, JPEG at quality 95 and
    WebP without loss, always in 8 bits; otherwise .png is added to the name, or .npy where there
    are more channels than pictures have. EXIF orientation is applied and other metadata dropped.
    What else becomes of a file is as in training; see `Decoder`.

    Args:
        gan: a model that translates, such as `ganzoo.load` returns.
        src: a folder, with all that is below it; a zip or tar; or one image.
        dst: a folder, made if need be; for one image also the file to write.
        direction: one of the model's `directions`.
        batch: images of one size that are translated together; large ones are fewer.
        raw: by the generators instead of their average, where there is one.
        alpha: None to keep transparency, in which case the colors are translated as they look on
            white; or the color, red, green, blue in 0...255, that it is laid on for good.
        png: write PNG with the ending .png, whatever the source was.
        page: also `dst`/index.html, which shows all images before and after.
        overwrite: replace files in `dst`. Those of `src` are never replaced.
        workers: processes that read images; None for one a core, at most 4.

    Raises:
        UserError: the model does not translate so, there are no images, or files would be lost.
    """
    start = time.perf_counter()
    if direction not in gan.directions:
        offered = " or ".join(gan.directions) or "nothing, since it makes images from seeds"
        raise UserError(f"{type(gan).__name__} does not translate {direction}, but {offered}.")
    if batch < 1:
        raise UserError(f"--batch must be at least 1, not {batch}.")
    domain, other = direction.split("to")
    source = originals(Path(src), gan.channels[domain], gan.channels[other], alpha)
    plan = Plan(source, Path(dst), gan.channels[other], png)
    plan.check(overwrite)
    bad, written = dict(plan.bad), 0
    book = Page(f"{type(gan).__name__}, {direction}", plan.folder) if page else None
    with ThreadPoolExecutor() as threads:
        for seen in plan.read(batch, workers):
            bad |= {source.name_of(i): why for i, why in seen.bad.items()}
            if not seen.indices:
                continue
            before = seen.found["image"]
            try:
                after = to_uint8(translated(gan, to_float(before.to(gan.device)), direction, raw))
            except torch.OutOfMemoryError:
                size = "x".join(map(str, before.shape[2:]))
                why = f"its {size} pixels do not fit into the memory of {gan.device}"
                bad |= {source.name_of(i): why for i in seen.indices}
                continue
            after = after.cpu()
            if "alpha" in seen.found:
                after = torch.cat([after, seen.found["alpha"]], 1)
            paths = [plan.targets[i] for i in seen.indices]
            list(threads.map(write, after, paths))
            written += len(paths)
            if book is not None:
                for i, a, b, path in zip(seen.indices, before, after, paths, strict=True):
                    book.add(source.name_of(i), a, b, path)
    if book is not None:
        book.write(plan.folder / PAGE, bad)
    return Done(written, dict(sorted(bad.items())), source.ignored, time.perf_counter() - start)


def originals(
    src: Path, channels: int, results: int, alpha: tuple[int, int, int] | None
) -> Originals:
    """The images of `src`, as a generator of so many channels in and out takes them.

    Raises:
        UserError: there are none.
    """
    try:
        single = src.is_file() and src.suffix.lower() in EXTENSIONS
        files = One(src) if single else open_files(src)
    except UserError as error:
        told = str(error).replace("set data.source.root to", "give the path of")
        raise UserError(told) from error
    source = Originals(files, channels, alpha or WHITE, alpha is None and results in (1, 3))
    if not len(source):
        blocked = f" {files.problems[0]}" if files.problems else ""
        raise UserError(f"{src} holds no images ({', '.join(EXTENSIONS)}).{blocked}")
    return source


class Plan:
    """Where each image is to be written, and which ones are translated together.

    Args:
        source: the images.
        dst: a folder, or a file for a single image.
        channels: of the results, without transparency.
        png: write PNG whatever the source was.

    Attributes:
        folder: that all is written below.
        targets: paths by the numbers of the images.
        bad: why images cannot be read, by name, as far as is known before their pixels are.
    """

    def __init__(self, source: Originals, dst: Path, channels: int, png: bool) -> None:
        self.source, self.dst = source, dst
        self.bad = dict.fromkeys(source.files.problems, "what lies there was not translated")
        self.targets: dict[int, Path] = {}
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
        """Raises UserError if files would be lost."""
        places: dict[Path, int] = {}
        for i, path in self.targets.items():
            if path in places:
                both = first([self.source.name_of(j) for j in (places[path], i)])
                raise UserError(f"{both} would both become {path}: leave out --png, or rename one.")
            places[path] = i
        files = self.source.files
        root = files.root.resolve()
        single = isinstance(files, One)
        if root.is_dir() and not single and self.dst.resolve().is_relative_to(root):
            raise UserError(
                f"{self.dst} lies in {root}, whose images are read: choose a DST outside of it."
            )
        reads = {(root / name).resolve() for name in files.names} | {root}
        for path in self.targets.values():
            if path.resolve() in reads:
                raise UserError(f"{path} is what is read, and never replaced: choose another DST.")
        there = [str(path) for path in self.targets.values() if path.exists()]
        if there and not overwrite:
            raise UserError(
                f"{len(there)} of the files to write are there already ({first(there)}): choose "
                "another DST, or give --overwrite."
            )

    def read(self, batch: int, workers: int | None) -> Iterator[Seen]:
        """The images in batches of equal size, with a progress bar."""
        chunks = [
            group[start : start + batch]
            for group in self._groups.values()
            for start in range(0, len(group), batch)
        ]
        workers = min(4, os.cpu_count() or 1) if workers is None else workers
        return sweep(self.source, chunks, _as_read, min(workers, len(chunks)), "translating")


def target_name(name: str, channels: int, png: bool) -> str:
    """What the result of `name` is called: the same if its format can hold that many channels."""
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
    """Write uint8 [C, H, W] in the format that the ending says; arrays are [H, W, C]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = image.permute(1, 2, 0).contiguous().numpy()
    pixels = pixels.squeeze(2) if pixels.shape[2] == 1 else pixels
    if path.suffix.lower() == ".npy":
        np.save(path, pixels)
        return
    _, options = FORMATS[path.suffix.lower()]
    Image.fromarray(pixels).save(path, **options)


def _as_read(indices: list[int], batch: Batch) -> Batch:
    return batch


if __name__ == "__main__":
    main()
