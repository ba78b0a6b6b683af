"""A check-up of images before training: what they are and what is wrong, and a sheet of some."""

import argparse
import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ganzoo.data.choosing import sources_of
from ganzoo.data.decode import Header
from ganzoo.data.encoded import EncodedImages
from ganzoo.data.files import refuse_among
from ganzoo.data.findings import Finding, Record, findings, is_plain
from ganzoo.data.module import Batch
from ganzoo.data.source import Source, evenly
from ganzoo.data.sources.pack import Pack
from ganzoo.data.visit import sweep
from ganzoo.errors import UserError, shown
from ganzoo.pictures.grids import grid, named_rows

CHUNK = 64  # number of images that are read together,
CHUNK_BYTES = 8 * 2**20  # or fewer, of this size in total

CLASSES_LISTED = 40
BAR = 40  # characters of the longest bar
NAME = 30  # characters of the name of a class
SIZES_LISTED = 5

SHEET_IMAGES = 100
SHEET_PIXELS = 2**24  # in total: a sheet has fewer images if they are large
SHEET_CLASSES = 12  # up to this number, each class has a row
SHEET_COLUMNS = 20  # images in such a row
SHEET_SIDE = 64  # smaller images are enlarged to this


def run(args: argparse.Namespace) -> int:
    """Print a report; return the number of problems. UserError if no image can be read."""
    problems = 0
    sources = sources_of(args.data, args.size, args.channels, args.keys, args.config_dir)
    for name, source in sources.items():
        if name:
            print(f"{name}:")
        picture = args.sheet
        if picture is not None and name:
            picture = picture.with_stem(f"{picture.stem}-{name}")
        problems += report(source, picture, args.workers)
    end = {0: "no problems", 1: "1 problem"}.get(problems, f"{problems} problems")
    print(end)
    return problems


def report(source: Source, picture: Path | None, workers: int | None) -> int:
    """Print everything about the images of one source; return the number of problems."""
    source.prepare()
    if not len(source):
        raise UserError(f"{source.name} has no images: choose other data, or another split.")
    if picture is not None:
        remedy = "choose another place with --sheet FILE.png, or use --sheet none"
        refuse_among(picture, source.folder, remedy)
    found = list(check(source))
    record = examine(source, os.cpu_count() or 1 if workers is None else workers)
    if len(record.indices):
        for line in facts(source, record):
            print(line)
    found += findings(source, record)
    for finding in found:
        print(f"{'PROBLEM' if finding.problem else 'note'}: {shown(finding.sentence)}")
        for line in finding.lines:
            print(f"  {shown(line)}")
    if not len(record.indices):
        raise UserError(f"None of the {len(source):,} images of {source.name} can be read.")
    if picture is not None:
        picture.parent.mkdir(parents=True, exist_ok=True)
        sheet(source, record.indices).save(picture)
        print(f"images as the networks would see them: {shown(str(picture))}")
    return sum(finding.problem for finding in found)


def check(source: Source) -> Iterator[Finding]:
    """A finding if a pack has changed since it was made."""
    if isinstance(source, Pack):
        try:
            source.check()
        except UserError as error:
            yield Finding(f"{error} Training would use it without checking.", True)


# -- reading ---------------------------------------------------------------------------------------


def examine(source: Source, workers: int) -> Record:
    """Read every image of `source` once, in `workers` processes."""
    total, (channels, height, width) = len(source), source.shape
    per_chunk = max(1, min(CHUNK, CHUNK_BYTES // (channels * height * width)))
    chunks = [list(range(i, min(i + per_chunk, total))) for i in range(0, total, per_chunk)]
    indices: list[int] = []
    bad: dict[int, str] = {}
    headers: Counter[Header] = Counter()
    places: dict[bytes, int] = {}
    same_as: list[int] = []
    plain = [np.empty(0, bool)]
    for seen in sweep(source, chunks, _Look(source), workers, "reading"):
        indices += seen.indices
        bad |= seen.bad
        if seen.indices:
            digests, counted, plain_ones = seen.found
            headers += counted
            for digest in digests:
                same_as.append(places.setdefault(digest, len(same_as)))
            plain.append(plain_ones)
    same = np.array(same_as, int)
    return Record(np.array(indices, int), same, np.concatenate(plain), bad, headers)


class _Look:
    """The part of a `Record` that comes from a chunk of images."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __call__(
        self, indices: list[int], batch: Batch
    ) -> tuple[list[bytes], Counter[Header], np.ndarray]:
        images = batch["image"]
        digests = [hashlib.blake2b(i.numpy().tobytes(), digest_size=16).digest() for i in images]
        headers: Counter[Header] = Counter()
        if isinstance(self.source, EncodedImages):
            found = map(self.source.header, indices)
            headers.update(header for header in found if isinstance(header, Header))
        return digests, headers, is_plain(images)


# -- facts -----------------------------------------------------------------------------------------


def facts(source: Source, record: Record) -> Iterator[str]:
    """Lines on what the images are."""
    channels, height, width = source.shape
    read = len(record.indices)
    yield (
        f"{shown(source.name)}: {read:,} images, delivered as {height}x{width} (height x width) "
        f"with {channels} channels"
    )
    labels = source.labels()
    if labels is not None and source.classes is not None:
        yield from bars(source.classes, labels[record.indices])
    if isinstance(source, EncodedImages):
        modes, sizes = Counter[str](), Counter[tuple[int, int]]()
        for header, count in record.headers.items():
            modes[header.mode] += count
            sizes[header.size] += count
        yield "modes of the files: " + ", ".join(f"{n:,} {mode}" for mode, n in modes.most_common())
        listed = ", ".join(f"{n:,} of {h}x{w}" for (h, w), n in sizes.most_common(SIZES_LISTED))
        if len(sizes) > SIZES_LISTED:
            heights, widths = zip(*sizes, strict=True)
            listed += (
                f", and {len(sizes) - SIZES_LISTED:,} other sizes; {min(heights)} to "
                f"{max(heights)} high, {min(widths)} to {max(widths)} wide"
            )
        yield f"sizes of the files: {listed}"
        notes: Sequence[str] = source.decoder.notes(list(record.headers.elements()), read)
    else:
        notes = source.conversions
    for note in notes:
        yield f"as delivered: {shown(note)}"


def bars(classes: Sequence[str], labels: Tensor) -> Iterator[str]:
    """A bar chart of the first classes."""
    counts = torch.bincount(labels, minlength=len(classes)).tolist()
    yield f"{len(classes)} classes:"
    names = [shown(name) for name in classes[:CLASSES_LISTED]]
    names = [name if len(name) <= NAME else f"{name[: NAME - 3]}..." for name in names]
    for name, count in zip(names, counts, strict=False):
        yield f"  {name:{max(map(len, names))}} {count:>9,} " + "#" * -(
            -BAR * count // max(1, *counts)
        )
    if more := len(classes) - len(names):
        yield f"  and {more:,} more, with {min(counts):,} to {max(counts):,} images"


# -- the contact sheet -----------------------------------------------------------------------------


def sheet(source: Source, indices: np.ndarray) -> Image.Image:
    """Some images from all parts of the data and all classes, as the networks would see them."""
    height, width = source.shape[1:]
    most = max(1, min(SHEET_IMAGES, SHEET_PIXELS // (height * width)))
    scale = max(1, SHEET_SIDE // max(height, width))

    def images(row: Sequence[int], columns: int) -> Tensor:
        chosen = [row[place] for place in evenly(len(row), columns)]
        pixels = source.__getitems__(chosen)["image"].float() / 127.5 - 1
        return pixels.repeat_interleave(scale, 2).repeat_interleave(scale, 3)

    rows = by_class(source, indices)
    if 2 <= len(rows) <= min(SHEET_CLASSES, most):
        columns = min(most // len(rows), SHEET_COLUMNS)
        return named_rows({name: images(row, columns) for name, row in rows.items()})
    many = list(rows.values())
    kept = [many[place] for place in evenly(len(many), most)]
    return grid(torch.cat([images(row, most // len(kept)) for row in kept]))


def by_class(source: Source, indices: np.ndarray) -> dict[str, list[int]]:
    """The indices of the images of each class that has any, by its printable name."""
    labels = source.labels()
    if labels is None or source.classes is None:
        return {"": indices.tolist()}
    read = labels[indices].numpy()
    rows = {
        shown(name): indices[read == label].tolist() for label, name in enumerate(source.classes)
    }
    return {name: row for name, row in rows.items() if row}
