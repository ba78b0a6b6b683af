"""What would go wrong in training on a set of images: the checks, and a sentence for each."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ganzoo.data.decode import Decoder, Header
from ganzoo.data.encoded import EncodedImages
from ganzoo.data.source import Source
from ganzoo.data.sources.folder import Folder
from ganzoo.errors import first, shown

FEW_IMAGES = 1000
FEW_IN_CLASS = 2  # a class with fewer images cannot be learned
IMBALANCE = 10  # ratio of the largest class to the smallest
MANY = 0.01  # repeats and plain images are a problem from this share of the images
PLAIN_LEVELS = 8  # an image whose 256 levels differ by less than this shows nothing
CROPPED = 0.1  # mean share of the area that is cut off, from which it is worth a note
STRETCHED = 1.5  # a visible change of proportions

LISTED = 5  # number of groups, and of names in a group, that are printed


class Finding(NamedTuple):
    """A sentence, whether training would go wrong, and the names that it is about."""

    sentence: str
    problem: bool = False
    lines: Sequence[str] = ()


@dataclass(frozen=True)
class Record:
    """Facts about all images; small, so that hundreds of thousands fit in memory.

    Attributes:
        indices: indices of the images that can be read, in order, int64 [n]. The other arrays have
            one place for each of them.
        same_as: place of the first image with the same pixels, usually its own, int64 [n].
        plain: whether all pixels have (nearly) one color, bool [n].
        bad: a sentence for each image that cannot be read.
        headers: number of files with each header, if the images are in files.
    """

    indices: np.ndarray
    same_as: np.ndarray
    plain: np.ndarray
    bad: dict[int, str]
    headers: Counter[Header]


def is_plain(images: Tensor) -> np.ndarray:
    """Whether all pixels of each of uint8 [n, C, H, W] have (nearly) one color: bool [n]."""
    low, high = images.flatten(2).aminmax(dim=2)
    return ((high - low).amax(1) < PLAIN_LEVELS).numpy()


def groups(firsts: np.ndarray) -> list[list[int]]:
    """Groups of places with the same first place, those of one place left out, in order."""
    members: dict[int, list[int]] = {}
    for place in np.flatnonzero(np.isin(firsts, firsts[firsts != np.arange(len(firsts))])):
        members.setdefault(int(firsts[place]), []).append(int(place))
    return list(members.values())


def findings(source: Source, record: Record) -> list[Finding]:
    """All findings, problems first."""
    found = [*_unreadable(source, record)]
    if not len(record.indices):
        return found
    found += [
        *_classes(source, record),
        *_repeats(source, record),
        *_plain(source, record),
        *_files(source, record),
        *_number(record),
    ]
    return sorted(found, key=lambda finding: not finding.problem)


def _unreadable(source: Source, record: Record) -> Iterator[Finding]:
    for problem in source.problems:
        yield Finding(f"{problem} Training does not start until this is fixed.", True)
    if record.bad:
        yield Finding(
            f"{len(record.bad):,} of {len(source):,} images cannot be read, and training stops at "
            "the first of them: fix or remove them, or make a pack without them (python -m "
            "ganzoo.prepare pack SRC PACK --skip-bad).",
            True,
            list(record.bad.values()),
        )


def _classes(source: Source, record: Record) -> Iterator[Finding]:
    labels, classes = source.labels(), source.classes
    if labels is None or classes is None:
        return
    read = labels[record.indices]
    counts = torch.bincount(read, minlength=len(classes)).tolist()
    sizes = dict(zip(map(shown, classes), counts, strict=True))
    filled = {name: count for name, count in sizes.items() if count}
    if len(filled) == 1:
        (only,) = filled
        if isinstance(source, Folder):
            folder = shown(str(source.root / only))
            yield Finding(
                f"Every image is in {folder}, so it is the only class and the labels mean nothing: "
                f"set {folder} as the root, or data.source.labels=false.",
                True,
            )
        else:
            yield Finding(
                f"Every image has the class {only}, so the labels mean nothing: use images of more "
                "classes, or images without labels.",
                True,
            )
    few = [f"{name}: {count}" for name, count in sizes.items() if count < FEW_IN_CLASS]
    if few:
        yield Finding(
            f"{len(few)} of {len(classes)} classes have fewer than {FEW_IN_CLASS} images "
            f"({first(few)}), which is not enough to learn a class: add images, or leave these "
            "classes out with data.classes.",
            True,
        )
    largest, smallest = max(filled, key=filled.__getitem__), min(filled, key=filled.__getitem__)
    if filled[largest] > IMBALANCE * filled[smallest]:
        yield Finding(
            f"The largest class ({largest}, {filled[largest]:,} images) is over {IMBALANCE} times "
            f"as large as the smallest ({smallest}, {filled[smallest]:,}), so small classes are "
            "rarely seen: data.balanced=true shows all classes equally often.",
        )


def _repeats(source: Source, record: Record) -> Iterator[Finding]:
    same = [group for group in groups(record.same_as) if not record.plain[group[0]]]
    extra, total = _extra(same), len(record.indices)
    height, width = source.shape[1:]
    if same:
        yield Finding(
            f"{extra:,} of {total:,} images repeat another pixel for pixel at {height}x{width}. "
            "These are shown more often than others and memorized, and held-out images may also "
            "be in training: keep one image of each group.",
            extra >= MANY * total,
            _lines(source, record, same),
        )
    labels = source.labels()
    if labels is not None:
        read = labels[record.indices]
        torn = [group for group in same if len(read[group].unique()) > 1]
        if torn:
            yield Finding(
                f"{_extra(torn) + len(torn):,} of {total:,} images have the same pixels as an "
                "image of another class, which gives one image two labels: keep each image in one "
                "class.",
                True,
                _lines(source, record, torn, read),
            )


def _extra(groups: Sequence[Sequence[int]]) -> int:
    """Number of images that are not the first of their group."""
    return sum(map(len, groups)) - len(groups)


def _lines(
    source: Source, record: Record, groups: Sequence[Sequence[int]], labels: Tensor | None = None
) -> list[str]:
    """Names of the images in the first groups, with their classes if `labels` is given."""

    def name(place: int) -> str:
        name = shown(source.name_of(int(record.indices[place])))
        if labels is None or source.classes is None:
            return name
        return f"{name} ({shown(source.classes[int(labels[place])])})"

    lines = []
    for group in groups[:LISTED]:
        more = f", and {len(group) - LISTED:,} more" if len(group) > LISTED else ""
        lines.append(", ".join(map(name, group[:LISTED])) + more)
    return lines + ([f"and {len(groups) - LISTED:,} more groups"] if len(groups) > LISTED else [])


def _plain(source: Source, record: Record) -> Iterator[Finding]:
    places, total = np.flatnonzero(record.plain), len(record.indices)
    if len(places):
        names = [source.name_of(int(index)) for index in record.indices[places[: LISTED + 1]]]
        yield Finding(
            f"{len(places):,} of {total:,} images have a single color ({first(names, LISTED)}), "
            "and networks learn to draw such images: remove them, or save them again.",
            len(places) >= MANY * total,
        )


def _files(source: Source, record: Record) -> Iterator[Finding]:
    if not isinstance(source, EncodedImages):
        return
    for warning in source.listing.warnings:
        yield Finding(warning, True)
    for note in (*source.listing.files.notes, *source.listing.notes):
        yield Finding(f"{note} Training does the same: check that this is intended.")
    modes = Counter[str]()
    used = Counter[tuple[int, int]]()
    box = source.decoder.box
    for header, count in record.headers.items():
        modes[header.mode] += count
        used[header.size if box is None else (box.height, box.width)] += count
    if len(modes) > 1:
        listed = ", ".join(f"{count:,} {mode}" for mode, count in modes.most_common())
        yield Finding(
            f"The images have several modes ({listed}). All are converted, but gray images stay "
            "gray among color images, and are learned as gray: remove those that do not belong."
        )
    yield from _sizes(source.decoder, used)


def _sizes(decoder: Decoder, used: Counter[tuple[int, int]]) -> Iterator[Finding]:
    """Findings on sizes: `used` counts the sizes of the part of each image that is used."""
    height, width = decoder.size
    total = used.total()
    small = {size: n for size, n in used.items() if size[0] < height or size[1] < width}
    if small:
        least = min(small, key=lambda size: min(size[0] / height, size[1] / width))
        yield Finding(
            f"{sum(small.values()):,} of {total:,} images are smaller than {height}x{width} (the "
            f"smallest {least[0]}x{least[1]}) and are enlarged, and their blur is learned: "
            "remove them, or choose a smaller image_size."
        )
    odd = Counter[float]()  # by which factor images are too wide or too high
    for size, n in used.items():
        ratio = size[1] * height / (size[0] * width)
        odd[max(ratio, 1 / ratio)] += n
    cut = sum(n * (1 - 1 / ratio) for ratio, n in odd.items()) / max(total, 1)
    halved = sum(n for ratio, n in odd.items() if ratio > 2)
    stretched = sum(n for ratio, n in odd.items() if ratio > STRETCHED)
    if decoder.resize == "crop" and (halved or cut >= CROPPED):
        yield Finding(
            f"Cropping to {height}x{width} removes {cut:.0%} of an image on average, and "
            f"{halved:,} of {total:,} images lose more than half: choose an image_size with their "
            "proportions, crop them by hand, or set data.source.resize=stretch."
        )
    if decoder.resize == "stretch" and stretched:
        yield Finding(
            f"{stretched:,} of {total:,} images are stretched by more than {STRETCHED} and learned "
            "distorted: choose an image_size with their proportions, or set "
            "data.source.resize=crop."
        )


def _number(record: Record) -> Iterator[Finding]:
    if len(record.indices) < FEW_IMAGES:
        yield Finding(
            f"There are only {len(record.indices):,} images, which a discriminator soon memorizes: "
            "add images if you can, and leave model.augment on if the model has it."
        )
