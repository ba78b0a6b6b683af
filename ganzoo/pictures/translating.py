"""Every image of a folder, translated into the other domain under the same name."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch

from ganzoo.data.originals import open_originals
from ganzoo.data.outputs import Plan, write
from ganzoo.data.pixels import to_float, to_uint8
from ganzoo.engine.gan import GAN
from ganzoo.engine.kinds import only_translating
from ganzoo.errors import check_choice
from ganzoo.pictures.page import Page

PAGE = "index.html"


class Done(NamedTuple):
    """The outcome: how many images were written, and why others were not, by name."""

    written: int
    bad: dict[str, str]
    ignored: int  # files that are not images
    seconds: float


def translate(
    gan: GAN,
    src: str | Path,
    dst: str | Path,
    direction: str = "AtoB",
    batch: int = 8,
    raw: bool = False,
    png: bool = False,
    page: bool = False,
    overwrite: bool = False,
    workers: int | None = None,
) -> Done:
    """Translate every image of `src`, each under its own name and in its own size, into `dst`.

    A result has the format of its source if the format can store it (JPEG at quality 95, lossless
    WebP), always in 8 bits; otherwise .png is added to the name, or .npy if there are too many
    channels for a picture. Files are decoded as in training, see `Decoder`.

    Args:
        src: a folder with its subfolders, a zip, a tar, or one image.
        dst: the folder to write to, made if missing; for one image also the file.
        batch: number of images of equal size to translate at once.
        png, page, overwrite: write PNG for every format; write `dst`/index.html, which shows all
            images before and after; replace existing files in `dst` (those in `src` never are).
        workers: number of processes that read images; None: one per core, at most 4.
    """
    start = time.perf_counter()
    gan = only_translating(gan)
    check_choice("--direction", direction, gan.directions)
    domain, other = direction.split("to")
    source = open_originals(Path(src), gan.channels[domain], gan.channels[other])
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
