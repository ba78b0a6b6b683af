"""python -m ganzoo.translate CKPT SRC DST: every image of a folder as the other domain shows it.

Names, folders and sizes are kept. What cannot be read is listed at the end, and the exit code is 1.
"""

import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch

from ganzoo.data.originals import open_originals
from ganzoo.data.outputs import Plan, write
from ganzoo.data.pixels import to_float, to_uint8
from ganzoo.engine.checkpoint import load
from ganzoo.engine.gan import GAN
from ganzoo.engine.kinds import only_translating
from ganzoo.errors import UserError, shown
from ganzoo.pictures.page import Page

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
    gan = only_translating(gan)
    if direction not in gan.directions:
        offered = " or ".join(gan.directions)
        raise UserError(f"{type(gan).__name__} does not translate {direction}, but {offered}.")
    if batch < 1:
        raise UserError(f"--batch must be at least 1, not {batch}.")
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
