"""A check-up of images before training: what they are and what is wrong, and a sheet of some."""

import argparse
import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from PIL import Image

from ganzoo.data.choosing import sources_of
from ganzoo.data.decode import Header
from ganzoo.data.encoded import EncodedImages
from ganzoo.data.files import refuse_among
from ganzoo.data.findings import Finding, Record, findings, is_plain
from ganzoo.data.module import Batch
from ganzoo.data.pixels import to_float
from ganzoo.data.source import Source, counted, evenly
from ganzoo.data.sources.pack import Pack
from ganzoo.data.visit import chunks_of, sweep
from ganzoo.errors import UserError, shown
from ganzoo.pictures.grids import enlarged, grid

CHUNK = 64  # largest number of images that are read together

LISTED = 1000  # characters of a list of classes

SHEET_IMAGES = 100
SHEET_PIXELS = 2**24  # in total: a sheet has fewer images if they are large
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
    if record.read:
        for line in facts(source, record):
            print(shown(line))
    found += findings(source, record)
    for finding in found:
        print(f"{'PROBLEM' if finding.problem else 'note'}: {shown(finding.sentence)}")
        for line in finding.lines:
            print(f"  {shown(line)}")
    if not record.read:
        raise UserError(f"None of the {len(source):,} images of {source.name} can be read.")
    if picture is not None:
        picture.parent.mkdir(parents=True, exist_ok=True)
        sheet(source, record.read).save(picture)
        print(f"images as the networks would see them: {shown(str(picture))}")
    return sum(finding.problem for finding in found)


def check(source: Source) -> Iterator[Finding]:
    """A finding if a pack has changed since it was made."""
    if isinstance(source, Pack):
        try:
            source.check()
        except UserError as error:
            yield Finding(f"{error} Training would use it without checking.", True)


def examine(source: Source, workers: int) -> Record:
    """Read every image of `source` once, in `workers` processes."""
    record, seen_first = Record(), dict[bytes, int]()
    chunks = chunks_of(source, CHUNK)
    for seen in sweep(source, chunks, partial(look, source), workers, "reading"):
        record.bad |= seen.bad
        if not seen.indices:
            continue
        digests, plain, headers = seen.found
        record.read += seen.indices
        record.headers += headers
        record.plain += [i for i, is_one in zip(seen.indices, plain, strict=True) if is_one]
        for index, digest in zip(seen.indices, digests, strict=True):
            earlier = seen_first.setdefault(digest, index)
            if earlier != index:
                record.copies.setdefault(earlier, [earlier]).append(index)
    return record


def look(
    source: Source, indices: list[int], batch: Batch
) -> tuple[list[bytes], list[bool], Counter[Header]]:
    """Digests of the pixels of some images, whether they have one color, and their headers."""
    digests = [
        hashlib.blake2b(image.numpy().tobytes(), digest_size=16).digest()
        for image in batch["image"]
    ]
    headers = Counter[Header]()
    if isinstance(source, EncodedImages):
        found = map(source.header, indices)
        headers.update(header for header in found if isinstance(header, Header))
    return digests, is_plain(batch["image"]), headers


def facts(source: Source, record: Record) -> Iterator[str]:
    """Lines on what the images are."""
    channels, height, width = source.shape
    yield (
        f"{source.name}: {len(record.read):,} images, delivered as {height}x{width} (height x "
        f"width) with {channels} channels"
    )
    labels, notes = source.labels(), source.conversions
    if labels is not None and source.classes is not None:
        yield counted(source.classes, labels[record.read], LISTED)
    if isinstance(source, EncodedImages):  # from all headers instead of some
        notes = source.converted(list(record.headers.elements()))
    for note in notes:
        yield f"as delivered: {note}"


def sheet(source: Source, indices: Sequence[int]) -> Image.Image:
    """Some images from all parts of the data, as the networks would see them."""
    height, width = source.shape[1:]
    most = max(1, min(SHEET_IMAGES, SHEET_PIXELS // (height * width)))
    chosen = [indices[place] for place in evenly(len(indices), most)]
    scale = max(1, SHEET_SIDE // max(height, width))
    return grid(enlarged(to_float(source.__getitems__(chosen)["image"]), scale))
