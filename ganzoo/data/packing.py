"""Writing packs; `ganzoo.data.sources.pack` says what they are."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ganzoo import __version__
from ganzoo.data.source import Source
from ganzoo.data.sources.pack import FACTS, FORMAT, level_file, levels_of, pyramid
from ganzoo.data.visit import Batch, sweep
from ganzoo.disk import sha256
from ganzoo.errors import UserError

CHUNK_BYTES = 8 * 2**20  # of images that a worker reads before it writes them
SAVE_EVERY = 5.0  # seconds between notes of how far it came


def write_pack(
    source: Source,
    out: Path,
    levels: bool = False,
    skip_bad: bool = False,
    workers: int | None = None,
    origin: str = "",
) -> dict[str, str]:
    """Write all images of `source` into the pack `out`; return why images were left out, by name.

    All happens in `<out>.partial`, which becomes `out` when it is whole. Interrupted, it goes on
    where it was when it is called again for the same images.

    Args:
        levels: also the pyramid of 2x2 box means, down to 4 pixels.
        skip_bad: leave out images that cannot be read.
        workers: processes; None for one a core, 0 for none but this.
        origin: where the source's files lie, for `pack.json`.

    Raises:
        UserError: `out` is something else, the disk is too small, folders cannot be opened, or
            images cannot be read and `skip_bad` is not set (each is printed before).
    """
    if source.problems and not skip_bad:
        raise UserError(f"{source.problems[0]} Or give --skip-bad to go on without.")
    images, shape = len(source), source.shape
    sizes = levels_of(shape[1:]) if levels else [shape[1:]]
    job = _Job(source, sizes)
    if out.exists():
        if _facts(out).get("job") == job.key:
            return _facts(out)["from"]["skipped"]
        raise UserError(f"{out} exists and is not a pack of these images: choose another name.")
    partial = out.with_name(out.name + ".partial")
    job.open(partial)

    bad: dict[int, str] = {}
    per_chunk = max(1, min(256, CHUNK_BYTES // (shape[0] * shape[1] * shape[2])))
    chunks = [
        list(range(start, min(start + per_chunk, images))) for start in range(0, images, per_chunk)
    ]
    todo = [chunk for chunk in chunks if not job.has(chunk)]
    if workers is None:
        workers = os.cpu_count() or 1
    for seen in sweep(source, todo, _Write(partial, sizes), workers, "packing"):
        bad |= seen.bad
        if not seen.bad:
            job.finished(seen.indices)
    job.save()
    if bad and not skip_bad:
        for sentence in bad.values():
            print(sentence)
        raise UserError(
            f"{len(bad)} of {images} images cannot be read, each named above: mend or remove them, "
            f"or give --skip-bad to leave them out; then run the same command again, which goes on "
            f"with what is in {partial}."
        )
    good = [i for i in range(images) if i not in bad]
    if not good:
        raise UserError(f"None of the {images} images can be read: there is nothing to pack.")
    if bad:
        job.forget_from(min(bad))  # rows move now: whoever goes on reads these images again
        for size in sizes:
            _close_ranks(partial / level_file(size), good)
    labels = source.labels()
    if labels is not None:
        np.save(partial / "labels.npy", labels[good].numpy())
    with (partial / "names.txt").open("w") as file:
        file.writelines(json.dumps(source.name_of(i)) + "\n" for i in good)
    skipped = {source.name_of(i): sentence for i, sentence in bad.items()}
    skipped |= {f"folders, {n}": problem for n, problem in enumerate(source.problems, 1)}
    facts = {
        "format": FORMAT,
        "images": len(good),
        "shape": list(shape),
        "classes": source.classes if labels is not None else None,
        "levels": [list(size) for size in sizes],
        "sha256": _digests(partial, sizes, labels is not None),
        "from": {
            "source": source.name,
            "files": origin,
            "notes": list(source.conversions),
            "skipped": skipped,
        },
        "made": {"ganzoo": __version__, "on": datetime.now(UTC).date().isoformat()},
        "job": job.key,
    }
    (partial / FACTS).write_text(json.dumps(facts, indent=1))
    os.replace(partial, out)
    job.remove(out)
    return skipped


class _Write:
    """Writes the rows of a chunk, in whichever process it is called."""

    def __init__(self, folder: Path, sizes: Sequence[tuple[int, int]]) -> None:
        self.folder, self.sizes = folder, sizes

    def __call__(self, indices: list[int], batch: Batch) -> None:
        for images, file in zip(pyramid(batch["image"], len(self.sizes)), self._files, strict=True):
            file[indices] = images.numpy()

    @cached_property
    def _files(self) -> list[np.ndarray]:
        return [np.load(self.folder / level_file(size), mmap_mode="r+") for size in self.sizes]

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "sizes": self.sizes}


class _Job:
    """What is being packed and how far it came, kept in the folder itself."""

    def __init__(self, source: Source, sizes: Sequence[tuple[int, int]]) -> None:
        self.images, self.sizes = len(source), sizes
        self.shape = (self.images, source.shape[0])
        told = hashlib.sha256(repr((FORMAT, source.shape, source.classes, sizes)).encode())
        for index in range(self.images):
            told.update(json.dumps(source.name_of(index)).encode())
        labels = source.labels()
        if labels is not None:
            told.update(labels.numpy().tobytes())
        self.key = told.hexdigest()
        self._fresh: list[int] = []
        self._saved_at = time.monotonic()

    def open(self, folder: Path) -> None:
        """Go on in `folder` if it holds this job, else begin there."""
        self.folder = folder
        self._done = np.zeros(self.images, bool)
        try:
            same = (folder / "job").read_text() == self.key
        except OSError:
            same = False
        try:
            if same:
                self._done[np.fromfile(folder / "done", np.int64)] = True
                self._restore_length()
            else:
                self._begin()
        except OSError as error:
            raise UserError(
                f"{folder} cannot be written to ({error.strerror}): choose another place."
            ) from error

    def has(self, chunk: list[int]) -> bool:
        return bool(self._done[chunk].all())

    def finished(self, indices: list[int]) -> None:
        self._fresh += indices
        if time.monotonic() - self._saved_at > SAVE_EVERY:
            self.save()

    def save(self) -> None:
        """Note what is finished, once it is on the disk."""
        for size in self.sizes:
            with (self.folder / level_file(size)).open("rb+") as file:
                os.fsync(file.fileno())
        with (self.folder / "done").open("ab") as file:
            np.array(self._fresh, np.int64).tofile(file)
        self._done[self._fresh] = True
        self._fresh, self._saved_at = [], time.monotonic()

    def forget_from(self, index: int) -> None:
        self._done[index:] = False
        np.flatnonzero(self._done).tofile(self.folder / "done")

    def remove(self, folder: Path) -> None:
        for name in ("job", "done"):
            (folder / name).unlink()

    def _begin(self) -> None:
        if self.folder.exists():
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True)
        need = self.images * self.shape[1] * sum(height * width for height, width in self.sizes)
        free = shutil.disk_usage(self.folder).free
        if free < need:
            self.folder.rmdir()
            raise UserError(
                f"The pack needs {need / 2**20:,.0f} MiB and the disk of {self.folder.parent} has "
                f"{free / 2**20:,.0f} MiB left: make room, or choose another place or --size."
            )
        for size in self.sizes:
            _new(self.folder / level_file(size), (*self.shape, *size))
        (self.folder / "done").touch()
        (self.folder / "job").write_text(self.key)

    def _restore_length(self) -> None:
        """Of files that were shortened before the interruption."""
        for size in self.sizes:
            _resize(self.folder / level_file(size), (*self.shape, *size))


def _new(path: Path, shape: tuple[int, ...]) -> None:
    np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)


def _resize(path: Path, shape: tuple[int, ...]) -> None:
    """Change the number of rows in an .npy file, the first ones staying where they are."""
    with path.open("rb+") as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        start = file.tell()
        file.seek(0)
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        assert file.tell() == start, "numpy leaves room for the number of rows to grow"
        file.truncate(start + int(np.prod(shape)))


def _close_ranks(path: Path, rows: list[int]) -> None:
    """Move the given rows, which ascend, to the front and cut off the rest."""
    images = np.load(path, mmap_mode="r+")
    for to, row in enumerate(rows):
        if to != row:
            images[to] = images[row]
    images.flush()
    _resize(path, (len(rows), *images.shape[1:]))


def _digests(folder: Path, sizes: Sequence[tuple[int, int]], labels: bool) -> dict[str, str]:
    names = [*map(level_file, sizes), *(["labels.npy"] if labels else []), "names.txt"]
    bar = tqdm(names, desc="SHA-256", unit=" files", disable=None)
    return {name: sha256(folder / name) for name in bar}


def _facts(out: Path) -> dict[str, Any]:
    try:
        return json.loads((out / FACTS).read_text())
    except (OSError, ValueError):
        return {}
