"""Writing packs; `ganzoo.data.sources.pack` describes their files."""

import json
import os
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np

from ganzoo import __version__
from ganzoo.data.files import refuse_among
from ganzoo.data.module import Batch
from ganzoo.data.source import Source
from ganzoo.data.sources.pack import FACTS, FORMAT, level_file, levels_of, pyramid
from ganzoo.data.visit import chunks_of, sweep
from ganzoo.disk import sha256
from ganzoo.errors import UserError

CHUNK = 256  # largest number of images that a worker reads before it writes them

Sizes = Sequence[tuple[int, int]]  # height and width of each level


def write_pack(
    source: Source,
    out: Path,
    levels: bool = False,
    skip_bad: bool = False,
    workers: int | None = None,
    origin: str = "",
) -> dict[str, str]:
    """Write all images of `source` into a new pack; returns why images were left out, by name.

    Args:
        levels: whether to add smaller sizes, by 2x2 box means, down to 4 pixels.
        workers: number of processes; None for one per core, 0 for this process alone.
        origin: where the source's files are, for `pack.json`.

    Raises UserError: `out` exists, the disk is too small, or images cannot be read and `skip_bad`
    is not set (each of them is printed before).
    """
    if source.problems and not skip_bad:
        raise UserError(f"{source.problems[0]} Or use --skip-bad to leave them out.")
    if out.exists():
        raise UserError(f"{out} already exists: choose another name, or remove it.")
    refuse_among(out, source.folder, "choose a place outside of it")
    sizes = levels_of(source.shape[1:]) if levels else [source.shape[1:]]
    unfinished = out.with_name(out.name + ".partial")
    if unfinished.exists():  # left by a process that was killed
        shutil.rmtree(unfinished)
    unfinished.mkdir(parents=True)
    try:
        _check_room(source, sizes, unfinished)
        skipped = _write(source, unfinished, sizes, skip_bad, workers, origin)
        unfinished.replace(out)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return skipped


def _check_room(source: Source, sizes: Sizes, folder: Path) -> None:
    pixels = sum(height * width for height, width in sizes)
    need, free = len(source) * source.shape[0] * pixels, shutil.disk_usage(folder).free
    if free < need:
        raise UserError(
            f"The pack needs {need / 2**20:,.0f} MiB and the disk of {folder.parent} has "
            f"{free / 2**20:,.0f} MiB left: make room, or choose another place or --size."
        )


def _write(
    source: Source, folder: Path, sizes: Sizes, skip_bad: bool, workers: int | None, origin: str
) -> dict[str, str]:
    """Write all files of a pack into `folder`; return why images were left out, by name."""
    bad = _write_images(source, folder, sizes, workers)
    if bad and not skip_bad:
        for sentence in bad.values():
            print(sentence)
        raise UserError(
            f"{len(bad)} of {len(source)} images cannot be read, each named above: fix or remove "
            "them, or leave them out with --skip-bad."
        )
    good = [i for i in range(len(source)) if i not in bad]
    if not good:
        raise UserError(f"None of the {len(source)} images can be read.")
    files = [level_file(size) for size in sizes]
    if bad:
        for name in files:
            _close_gaps(folder / name, good)
    labels = source.labels()
    if labels is not None:
        np.save(folder / "labels.npy", labels[good].numpy())
        files.append("labels.npy")
    with (folder / "names.txt").open("w") as file:
        file.writelines(json.dumps(source.name_of(i)) + "\n" for i in good)
    files.append("names.txt")
    skipped = {source.name_of(i): sentence for i, sentence in bad.items()}
    skipped |= {f"folders, {n}": problem for n, problem in enumerate(source.problems, 1)}
    facts = {
        "format": FORMAT,
        "images": len(good),
        "shape": list(source.shape),
        "classes": source.classes if labels is not None else None,
        "levels": [list(size) for size in sizes],
        "sha256": {name: sha256(folder / name) for name in files},
        "from": {
            "source": source.name,
            "files": origin,
            "license": source.license,
            "notes": list(source.conversions),
            "skipped": skipped,
        },
        "made": {"ganzoo": __version__, "on": datetime.now(UTC).date().isoformat()},
    }
    (folder / FACTS).write_text(json.dumps(facts, indent=1))
    return skipped


def _write_images(
    source: Source, folder: Path, sizes: Sizes, workers: int | None
) -> dict[int, str]:
    """Write row i of each level's file for image i; a sentence for each that cannot be read."""
    for size in sizes:
        shape = (len(source), source.shape[0], *size)
        np.lib.format.open_memmap(folder / level_file(size), "w+", np.uint8, shape)
    workers = os.cpu_count() or 1 if workers is None else workers
    write, bad = partial(_write_rows, folder, sizes), dict[int, str]()
    for seen in sweep(source, chunks_of(source, CHUNK), write, workers, "packing"):
        bad |= seen.bad
    return bad


def _write_rows(folder: Path, sizes: Sizes, indices: list[int], batch: Batch) -> None:
    """Write the rows of some images into each level's file, in the process that read them."""
    for images, size in zip(pyramid(batch["image"], len(sizes)), sizes, strict=True):
        np.load(folder / level_file(size), mmap_mode="r+")[indices] = images.numpy()


def _close_gaps(path: Path, rows: list[int]) -> None:
    """Keep only the given rows of an .npy file."""
    images, kept = np.load(path, mmap_mode="r"), path.with_suffix(".kept")
    new = np.lib.format.open_memmap(kept, "w+", np.uint8, (len(rows), *images.shape[1:]))
    for place, row in enumerate(rows):
        new[place] = images[row]
    del images, new  # closes the files
    kept.replace(path)
