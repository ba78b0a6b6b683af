"""Translate every image of a folder into the other domain.

Names, folders and sizes are kept. Images that cannot be read are listed at the end, and the exit
code is 1.
"""

import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch

from ganzoo import cli
from ganzoo.data.originals import open_originals
from ganzoo.data.outputs import Plan, write
from ganzoo.data.pixels import to_float, to_uint8
from ganzoo.engine.checkpoint import load
from ganzoo.engine.gan import GAN
from ganzoo.engine.kinds import only_translating
from ganzoo.errors import check_choice, shown
from ganzoo.pictures.page import Page

PAGE = "index.html"


class Done(NamedTuple):
    """The outcome: how many images were written, and why others were not, by name."""

    written: int
    bad: dict[str, str]
    ignored: int  # files that are not images
    seconds: float


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    options = {k: v for k, v in vars(args).items() if k not in ("checkpoint", "device", "trust")}
    with cli.exits("translate"):
        gan = load(args.checkpoint, cli.device(args.device), args.trust)
        done = translate(gan, **options)
        speed = f"{done.written / done.seconds:.1f} images/s"
        print(f"{done.written} images in {done.seconds:.1f} s ({speed}): {shown(str(args.dst))}")
        if done.ignored:
            print(f"{done.ignored} files are not images and were ignored.")
        if done.bad:
            print(f"{len(done.bad)} could not be translated:")
            for name, why in done.bad.items():
                print(f"  {shown(name)}: {shown(why)}")
            sys.exit(1)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = cli.parser("translate", __doc__)
    cli.add_checkpoint(parser)
    parser.add_argument(
        "src", type=Path, help="a folder with its subfolders, a zip, a tar, or one image"
    )
    parser.add_argument("dst", type=Path, help="a folder; for one image also a file")
    parser.add_argument("--direction", default="AtoB", help="AtoB or BtoA (%(default)s)")
    parser.add_argument(
        "--batch", type=cli.at_least(1), default=8,
        help="images of equal size to translate at once (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--alpha", type=color, metavar="keep|R,G,B",
        help="keep transparency (colors are translated as on white), or replace it by a color",
    )  # fmt: skip
    parser.add_argument("--png", action="store_true", help="write PNG: photo.jpg to photo.png")
    parser.add_argument(
        "--page", action="store_true", help=f"write {PAGE} with all images before and after"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace existing files in DST")
    parser.add_argument(
        "--workers", type=cli.at_least(0),
        help="processes that read images (one per core, at most 4)",
    )  # fmt: skip
    return parser.parse_args(argv)


def color(text: str) -> tuple[int, int, int] | None:
    """A color from text such as `255,255,255`; None for `keep`."""
    if text == "keep":
        return None
    parts = text.split(",")
    if len(parts) != 3 or not all(p.isdecimal() and int(p) < 256 for p in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not keep or a color such as 255,0,127")
    return int(parts[0]), int(parts[1]), int(parts[2])


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

    A result has the format of its source if the format can store it (JPEG at quality 95, lossless
    WebP), always in 8 bits; otherwise .png is added to the name, or .npy if there are too many
    channels for a picture. EXIF orientation is applied, other metadata is dropped; apart from that,
    files are decoded as in training, see `Decoder`.

    Args:
        gan: a model that translates, as `ganzoo.load` returns it.
        src: a folder with its subfolders, a zip, a tar, or one image.
        dst: the folder to write to, made if missing; for one image also the file.
        direction: one of the `directions` of the model.
        batch: number of images of equal size to translate at once; fewer if they are large.
        raw: use the raw generators, not their average.
        alpha: None to keep transparency, with the colors translated as they look on white; or
            the color (red, green, blue in 0...255) that replaces it.
        png: write PNG, whatever the format of the source.
        page: write `dst`/index.html, which shows all images before and after.
        overwrite: replace existing files in `dst`; files in `src` are never replaced.
        workers: number of processes that read images; None: one per core, at most 4.

    Raises:
        UserError: the model has no such direction, there are no images, or files would be lost.
    """
    start = time.perf_counter()
    gan = only_translating(gan)
    check_choice("--direction", direction, gan.directions)
    domain, other = direction.split("to")
    source = open_originals(Path(src), gan.channels[domain], gan.channels[other], alpha)
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
                after = to_uint8(
                    gan.translate_many(to_float(before.to(gan.device)), direction, raw)
                )
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


if __name__ == "__main__":
    main()
