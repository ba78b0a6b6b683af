"""What would go wrong in training on a set of images: the checks, and a sentence for each."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ganzoo.data.decode import Decoder, Header
from ganzoo.data.encoded import EncodedImages
from ganzoo.data.source import Source
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


@dataclass
class Record:
    """Facts about all images; small, so that hundreds of thousands fit in memory."""

    read: list[int] = field(default_factory=list)  # indices of the images that can be read
    # By the index of an image: the indices of those with the same pixels, which it is the first of.
    copies: dict[int, list[int]] = field(default_factory=dict)
    plain: list[int] = field(default_factory=list)  # indices of images of (nearly) one color
    bad: dict[int, str] = field(default_factory=dict)  # why images cannot be read
    headers: Counter[Header] = field(default_factory=Counter)  # files with each header


def is_plain(images: Tensor) -> list[bool]:
    """Whether all pixels of each of uint8 [n, C, H, W] have (nearly) one color."""
    low, high = images.flatten(2).aminmax(dim=2)
    return ((high - low).amax(1) < PLAIN_LEVELS).tolist()


def findings(source: Source, record: Record) -> list[Finding]:
    """All findings, problems first."""
    found = [*_unreadable(source, record)]
    if record.read:
        found += _classes(source, record)
        found += _repeats(source, record)
        found += _plain(source, record)
        if isinstance(source, EncodedImages):
            found += [Finding(warning, True) for warning in source.listing.warnings]
            found += _sizes(source.decoder, record.headers)
        found += _number(record)
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
    counts = torch.bincount(labels[record.read], minlength=len(classes)).tolist()
    sizes = dict(zip(map(shown, classes), counts, strict=True))
    filled = {name: count for name, count in sizes.items() if count}
    smallest, largest = min(filled, key=filled.__getitem__), max(filled, key=filled.__getitem__)
    if len(filled) == 1:
        yield Finding(
            f"Every image has the class {largest}, so the labels mean nothing: use images of more "
            "classes, or images without labels. Of a folder, set its root to the folder of this "
            "class, or data.source.labels=false.",
            True,
        )
    few = [f"{name}: {count}" for name, count in sizes.items() if count < FEW_IN_CLASS]
    if few:
        yield Finding(
            f"{len(few)} of {len(classes)} classes have fewer than {FEW_IN_CLASS} images "
            f"({first(few)}), which is not enough to learn a class: add images, or leave these "
            "classes out with data.only.",
            True,
        )
    if filled[largest] > IMBALANCE * filled[smallest]:
        yield Finding(
            f"The largest class ({largest}, {filled[largest]:,} images) is over {IMBALANCE} times "
            f"as large as the smallest ({smallest}, {filled[smallest]:,}), so small classes are "
            "rarely seen: data.balanced=true shows all classes equally often."
        )


def _repeats(source: Source, record: Record) -> Iterator[Finding]:
    plain, total, labels = set(record.plain), len(record.read), source.labels()
    same = [group for index, group in record.copies.items() if index not in plain]
    extra = sum(map(len, same)) - len(same)
    height, width = source.shape[1:]
    if same:
        yield Finding(
            f"{extra:,} of {total:,} images repeat another pixel for pixel at {height}x{width}. "
            "These are shown more often than others and memorized, and held-out images may also "
            "be in training: keep one image of each group.",
            extra >= MANY * total,
            _lines(source, same),
        )
    torn = [group for group in same if labels is not None and len(labels[group].unique()) > 1]
    if torn:
        yield Finding(
            f"{sum(map(len, torn)):,} of {total:,} images have the same pixels as an image of "
            "another class, which gives one image two labels: keep each image in one class.",
            True,
            _lines(source, torn),
        )


def _lines(source: Source, groups: Sequence[Sequence[int]]) -> list[str]:
    """Names of the images in the first groups."""
    lines = [first([source.name_of(i) for i in group], LISTED) for group in groups[:LISTED]]
    return lines + ([f"and {len(groups) - LISTED:,} more groups"] if len(groups) > LISTED else [])


def _plain(source: Source, record: Record) -> Iterator[Finding]:
    if record.plain:
        names = [source.name_of(index) for index in record.plain[: LISTED + 1]]
        yield Finding(
            f"{len(record.plain):,} of {len(record.read):,} images have a single color "
            f"({first(names, LISTED)}), and networks learn to draw such images: remove them, or "
            "save them again.",
            len(record.plain) >= MANY * len(record.read),
        )


def _sizes(decoder: Decoder, headers: Counter[Header]) -> Iterator[Finding]:
    """Findings on the sizes of the images, or of the part of them that is used."""
    height, width = decoder.size
    box = decoder.box
    used = [header.size if box is None else (box.height, box.width) for header in headers]
    sizes, counts = np.array(used), np.array(list(headers.values()))
    total = counts.sum()
    shares = (sizes / decoder.size).min(1)
    if small := counts[shares < 1].sum():
        least = used[shares.argmin()]
        yield Finding(
            f"{small:,} of {total:,} images are smaller than {height}x{width} (the smallest "
            f"{least[0]}x{least[1]}) and are enlarged, and their blur is learned: remove them, or "
            "choose a smaller image_size."
        )
    ratios = sizes[:, 1] * height / (sizes[:, 0] * width)
    ratios = np.maximum(ratios, 1 / ratios)  # by which factor images are too wide or too high
    cut = (counts * (1 - 1 / ratios)).sum() / total
    halved, stretched = counts[ratios > 2].sum(), counts[ratios > STRETCHED].sum()
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
    if len(record.read) < FEW_IMAGES:
        yield Finding(
            f"There are only {len(record.read):,} images, which a discriminator soon memorizes: "
            "add images if you can, and leave model.augment on if the model has it."
        )
