"""Writing packs; `ganzoo.data.sources.pack` describes their files."""

import json
import os
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ganzoo import __version__
from ganzoo.data.files import refuse_among
from ganzoo.data.module import Batch
from ganzoo.data.source import Source
from ganzoo.data.sources.pack import FACTS, FORMAT, level_file, levels_of, pyramid
from ganzoo.data.visit import sweep
from ganzoo.disk import sha256
from ganzoo.errors import UserError

CHUNK_BYTES = 8 * 2**20  # size of the images that a worker reads before it writes them

Sizes = Sequence[tuple[int, int]]  # height and width of each level


def write_pack(
    source: Source,
    out: Path,
    levels: bool = False,
    skip_bad: bool = False,
    workers: int | None = None,
    origin: str = "",
) -> dict[str, str]:
    """Write all images of `source` into a new pack.

    The pack is called `<out>.partial` until it is complete.

    Args:
        source: the images.
        out: folder of the pack.
        levels: whether to add smaller sizes, by 2x2 box means, down to 4 pixels.
        skip_bad: leave out images that cannot be read.
        workers: number of processes; None for one per core, 0 for this process alone.
        origin: where the source's files are, for `pack.json`.

    Returns:
        Why images were left out, by name.

    Raises:
        UserError: `out` exists, the disk is too small, folders cannot be opened, or images cannot
            be read and `skip_bad` is not set (each of them is printed before).
    """
    if source.problems and not skip_bad:
        raise UserError(f"{source.problems[0]} Or use --skip-bad to leave them out.")
    if out.exists():
        raise UserError(f"{out} already exists: choose another name, or remove it.")
    refuse_among(out, source.folder, "choose a place outside of it")
    sizes = levels_of(source.shape[1:]) if levels else [source.shape[1:]]
    partial = out.with_name(out.name + ".partial")
    if partial.exists():  # left by a process that was killed
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    try:
        _check_room(source, sizes, partial)
        skipped = _write(source, partial, sizes, skip_bad, workers, origin)
        partial.replace(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
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
        raise UserError(f"None of the {len(source)} images can be read: there is nothing to pack.")
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
        "sha256": {
            name: sha256(folder / name)
            for name in tqdm(files, desc="SHA-256", unit=" files", disable=None)
        },
        "from": {
            "source": source.name,
            "files": origin,
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
    images, (channels, height, width) = len(source), source.shape
    for size in sizes:
        shape = (images, channels, *size)
        np.lib.format.open_memmap(folder / level_file(size), "w+", np.uint8, shape)
    step = max(1, min(256, CHUNK_BYTES // (channels * height * width)))
    chunks = [list(range(i, min(i + step, images))) for i in range(0, images, step)]
    workers = os.cpu_count() or 1 if workers is None else workers
    bad: dict[int, str] = {}
    for seen in sweep(source, chunks, _WriteRows(folder, sizes), workers, "packing"):
        bad |= seen.bad
    return bad


class _WriteRows:
    """Writes the rows of some images, in the process that read them."""

    def __init__(self, folder: Path, sizes: Sizes) -> None:
        self.folder, self.sizes = folder, sizes

    def __call__(self, indices: list[int], batch: Batch) -> None:
        for images, file in zip(pyramid(batch["image"], len(self.sizes)), self._files, strict=True):
            file[indices] = images.numpy()

    @cached_property
    def _files(self) -> list[np.ndarray]:
        return [np.load(self.folder / level_file(size), mmap_mode="r+") for size in self.sizes]

    def __getstate__(self) -> dict[str, Any]:  # without the open files
        return {"folder": self.folder, "sizes": self.sizes}


def _close_gaps(path: Path, rows: list[int]) -> None:
    """Keep only the given rows, in ascending order, of an .npy file."""
    images = np.load(path, mmap_mode="r+")
    for to, row in enumerate(rows):
        if to != row:
            images[to] = images[row]
    images.flush()
    shape = (len(rows), *images.shape[1:])
    with path.open("rb+") as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        start = file.tell()
        file.seek(0)
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        assert file.tell() == start, "NumPy pads headers so that the number of rows can change"
        file.truncate(start + int(np.prod(shape)))
