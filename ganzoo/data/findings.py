"""What would go wrong in training on a set of images, told from one look at each of them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ganzoo.data.decode import Decoder, Header
from ganzoo.data.encoded import EncodedImages
from ganzoo.data.source import Source
from ganzoo.data.sources.folder import Folder
from ganzoo.errors import first, shown

FEW_IMAGES = 1000
FEW_IN_CLASS = 2  # a class of fewer cannot be learned
IMBALANCE = 10  # times the smallest class
MANY = 0.01  # share of the images from which repeats and plain images are a problem
PLAIN_LEVELS = 8  # of 256: less than this between its extremes, and an image shows nothing
CROPPED = 0.1  # share of the area, in the mean over the images, that is worth a note when cut off
STRETCHED = 1.5  # change of proportions that one sees

NEAR_BITS = 3  # of 64 in which the hashes of near duplicates may differ
NEAR_CORRELATION = 0.995  # of their thumbnails, at least
NEAR_PIXEL = 0.5  # standard deviations: difference of any two pixels of these, at most
NEAR_COLOR = 32  # levels of 256: difference of their mean colors, at most
NEAR_CONTRAST = 16  # levels: standard deviation below which a thumbnail tells nothing apart
HASH_NOISE = 0.2  # standard deviations: smaller steps in brightness may be noise
LONGEST_RUN = 64  # of hashes that agree in a part, within which all are compared with all
BLOCK = 2**12  # thumbnails compared at once
# A band is ten to twelve bits of a hash, from all rows and columns.
BANDS = [sum(1 << bit for bit in range(64) if (bit // 8 + bit % 8) % 6 == n) for n in range(6)]

LISTED = 5  # groups, and names of a group, that are written out


class Finding(NamedTuple):
    """A sentence, the names it is about, and whether training would go wrong."""

    sentence: str
    problem: bool = False
    lines: Sequence[str] = ()


@dataclass(frozen=True)
class Record:
    """What is kept of every image; small, so that hundreds of thousands fit in memory.

    Attributes:
        indices: int64 [n], of the images that could be read, in order. The other arrays have a
            place for each of them.
        same_as: int64 [n], the place of the first image with the same pixels, often its own.
        plain: bool [n], whether all pixels are (nearly) of one color.
        hashes, thumbs: see `fingerprints`.
        bad: a sentence for each image that could not be read.
        headers: how many files have which header, if the images lie in files.
    """

    indices: np.ndarray
    same_as: np.ndarray
    plain: np.ndarray
    hashes: np.ndarray
    thumbs: np.ndarray
    bad: dict[int, str]
    headers: Counter[Header]


# -- duplicates ------------------------------------------------------------------------------------


def fingerprints(images: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Hashes uint64 [n] and thumbnails uint8 [n, at most 4 channels, 16, 18] of uint8 [n, C, H, W].

    A bit of a hash says whether it gets brighter from one of 8x9 gray pixels to its neighbor at the
    right, by more than noise. Files of the same picture differ in few bits or none, whatever their
    size, quality, brightness and contrast.
    """
    thumbs = F.adaptive_avg_pool2d(images[:, :4].float(), (16, 18))
    gray = F.avg_pool2d(thumbs.mean(1), 2)
    noise = HASH_NOISE * gray.std((1, 2), keepdim=True)
    bits = np.packbits((gray.diff(dim=2) > noise).flatten(1).numpy(), axis=1)
    return bits.view(np.uint64)[:, 0], thumbs.round().to(torch.uint8).numpy()


def is_plain(images: Tensor) -> np.ndarray:
    """Whether all pixels of each of uint8 [n, C, H, W] are (nearly) of one color: bool [n]."""
    low, high = images.flatten(2).aminmax(dim=2)
    return ((high - low).amax(1) < PLAIN_LEVELS).numpy()


def near_duplicates(hashes: np.ndarray, thumbs: np.ndarray) -> np.ndarray:
    """For every image the first one that it nearly repeats, by itself or over others: int64 [n].

    Two hashes that differ in at most `NEAR_BITS` bits agree in all bands but that many. So for each
    choice of bands those that agree there are sorted next to each other and compared, which finds
    every pair among them without comparing all; but where more than `LONGEST_RUN` agree, each is
    compared only with as many of its neighbors. What then counts are the thumbnails.
    """
    root = np.arange(len(hashes))
    look = _Thumbs(thumbs)
    rows = np.flatnonzero(look.contrast >= NEAR_CONTRAST)
    rows = rows[np.argsort(look.color[rows].mean(1), kind="stable")]  # alike ones come near
    for kept in (BANDS, *combinations(BANDS, len(BANDS) - NEAR_BITS)):
        keys = hashes[rows] & np.uint64(sum(kept))
        order = np.argsort(keys, kind="stable")
        for left, right in _runs(keys[order]):
            a, b = rows[order[left]], rows[order[right]]
            bits = np.bitwise_count(hashes[a] ^ hashes[b])
            near = (bits <= NEAR_BITS) & ((bits > 0) | (kept is BANDS)) & (root[a] != root[b])
            _unite(root, *look.alike(a[near], b[near]))
        if kept is BANDS:  # equal hashes are done with; one image stands for them from now on
            rows = rows[root[rows] == rows]
    return root


def _runs(keys: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All places at which ascending keys are equal, in pairs that are 1, 2, 3... apart."""
    left = np.arange(len(keys))
    for step in range(1, LONGEST_RUN):
        left = left[left < len(keys) - step]
        left = left[keys[left] == keys[left + step]]
        if not len(left):
            return
        yield left, left + step


class _Thumbs:
    """Thumbnails uint8 [n, C, 16, 18], to be compared but for brightness and contrast."""

    def __init__(self, thumbs: np.ndarray) -> None:
        self.pixels = thumbs.reshape(*thumbs.shape[:2], -1)
        self.color = self.pixels.mean(2, dtype=np.float32)
        squares = np.einsum("nck,nck->n", self.pixels, self.pixels, dtype=np.float32)
        variance = squares / self.pixels[0].size - np.square(self.color).mean(1)
        self.contrast = np.sqrt(variance.clip(min=1))
        # Means over 4x6 pixels: as they differ less than the pixels do, most pairs end with them.
        blocks = thumbs.reshape(*thumbs.shape[:2], 4, 4, 3, 6).mean((3, 5), dtype=np.float32)
        self.blocks = self._normalized(blocks.reshape(*thumbs.shape[:2], -1), slice(None))

    def alike(self, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Those of the pairs a, b that show the same."""
        far = 2 * (1 - NEAR_CORRELATION)  # mean square of the difference, normalized
        near = np.square(self.blocks[a] - self.blocks[b]).mean((1, 2)) <= far
        near &= np.abs(self.color[a] - self.color[b]).max(1) <= NEAR_COLOR
        a, b = a[near], b[near]
        kept = np.zeros(len(a), bool)
        for start in range(0, len(a), BLOCK):
            part = slice(start, start + BLOCK)
            x, y = (self._normalized(self.pixels[rows], rows) for rows in (a[part], b[part]))
            gap = np.abs(x - y)
            kept[part] = (np.square(gap).mean((1, 2)) <= far) & (gap.max((1, 2)) <= NEAR_PIXEL)
        return a[kept], b[kept]

    def _normalized(self, pixels: np.ndarray, rows: np.ndarray | slice) -> np.ndarray:
        """[n, C, k] of the images `rows` less their color, divided by their contrast."""
        return (pixels - self.color[rows, :, None]) / self.contrast[rows, None, None]


def _unite(root: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    """Join the groups of a and b, pair by pair; `root` has the first image of each one's group."""
    while True:
        low, high = np.minimum(root[a], root[b]), np.maximum(root[a], root[b])
        if np.array_equal(low, high):
            return
        np.minimum.at(root, high, low)
        while not np.array_equal(root[root], root):
            root[:] = root[root]


def groups(firsts: np.ndarray) -> list[list[int]]:
    """The places that share the first one, for every one that is shared, in order."""
    members: dict[int, list[int]] = {}
    for place in np.flatnonzero(np.isin(firsts, firsts[firsts != np.arange(len(firsts))])):
        members.setdefault(int(firsts[place]), []).append(int(place))
    return list(members.values())


# -- sentences -------------------------------------------------------------------------------------


def findings(source: Source, record: Record) -> list[Finding]:
    """All that is to be said, problems first."""
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
        yield Finding(f"{problem} Training does not start without them.", True)
    if record.bad:
        yield Finding(
            f"{len(record.bad):,} of {len(source):,} images cannot be read, and the first one that "
            "is met stops training: mend or remove them, or make a pack without them (python -m "
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
                f"Every image lies in {folder}, so it is the only class, and labels mean nothing: "
                f"give {folder} as the root, or data.source.labels=false.",
                True,
            )
        else:
            yield Finding(
                f"Every image is of the class {only}, so labels mean nothing: use images of more "
                "classes, or none.",
                True,
            )
    few = [f"{name}: {count}" for name, count in sizes.items() if count < FEW_IN_CLASS]
    if few:
        yield Finding(
            f"{len(few)} of {len(classes)} classes have fewer than {FEW_IN_CLASS} images "
            f"({first(few)}), from which a class cannot be learned: add images, or leave such "
            "classes out with data.classes.",
            True,
        )
    largest, smallest = max(filled, key=filled.__getitem__), min(filled, key=filled.__getitem__)
    if filled[largest] > IMBALANCE * filled[smallest]:
        yield Finding(
            f"The largest class ({largest}, {filled[largest]:,} images) has over {IMBALANCE} times "
            f"the images of the smallest ({smallest}, {filled[smallest]:,}), so small classes are "
            "hardly seen: data.balanced=true shows all equally often.",
        )


def _repeats(source: Source, record: Record) -> Iterator[Finding]:
    same = [group for group in groups(record.same_as) if not record.plain[group[0]]]
    extra, total = _extra(same), len(record.indices)
    height, width = source.shape[1:]
    if same:
        yield Finding(
            f"{extra:,} of {total:,} images repeat another pixel for pixel at {height}x{width}, so "
            "these are shown more often than others and learned by heart, and what is held out may "
            "be in training, too: keep one of each group.",
            extra >= MANY * total,
            _lines(source, record, same),
        )
    labels = source.labels()
    if labels is not None:
        read = labels[record.indices]
        torn = [group for group in same if len(read[group].unique()) > 1]
        if torn:
            yield Finding(
                f"{_extra(torn) + len(torn):,} of {total:,} images have the same pixels as one of "
                "another class, so a model is told two classes for one image: keep each in one "
                "class.",
                True,
                _lines(source, record, torn, read),
            )
    rows = np.flatnonzero((record.same_as == np.arange(total)) & ~record.plain)
    near = groups(near_duplicates(record.hashes[rows], record.thumbs[rows]))
    if near:
        yield Finding(
            f"{_extra(near):,} of {total:,} images nearly repeat another (saved again, resized, "
            "brightened, frames of one scene), so these are shown more often than others: keep one "
            "of each group if that is not meant.",
            lines=_lines(source, record, [rows[group].tolist() for group in near]),
        )


def _extra(groups: Sequence[Sequence[int]]) -> int:
    """Images beside the first one of each group."""
    return sum(map(len, groups)) - len(groups)


def _lines(
    source: Source, record: Record, groups: Sequence[Sequence[int]], labels: Tensor | None = None
) -> list[str]:
    """The names of the images of the first groups, with their classes if labels are given."""

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
            f"{len(places):,} of {total:,} images are of one color ({first(names, LISTED)}), from "
            "which networks learn to draw nothing: remove them, or save them again.",
            len(places) >= MANY * total,
        )


def _files(source: Source, record: Record) -> Iterator[Finding]:
    if not isinstance(source, EncodedImages):
        return
    for note in (*source.listing.files.notes, *source.listing.notes):
        yield Finding(f"{note} Training does the same: look whether that is meant.")
    modes = Counter[str]()
    used = Counter[tuple[int, int]]()
    box = source.decoder.box
    for header, count in record.headers.items():
        modes[header.mode] += count
        used[header.size if box is None else (box.height, box.width)] += count
    if len(modes) > 1:
        listed = ", ".join(f"{count:,} {mode}" for mode, count in modes.most_common())
        yield Finding(
            f"The images are of several modes ({listed}): all are converted, but gray ones stay "
            "gray among colored ones and are learned as a kind of their own: remove those that do "
            "not belong."
        )
    yield from _sizes(source.decoder, used)


def _sizes(decoder: Decoder, used: Counter[tuple[int, int]]) -> Iterator[Finding]:
    """On the sizes of what is used of the images, and how many have each."""
    height, width = decoder.size
    total = used.total()
    small = {size: n for size, n in used.items() if size[0] < height or size[1] < width}
    if small:
        least = min(small, key=lambda size: min(size[0] / height, size[1] / width))
        yield Finding(
            f"{sum(small.values()):,} of {total:,} images are smaller than {height}x{width} (the "
            f"smallest {least[0]}x{least[1]}) and are enlarged, whose blur is learned as well: "
            "remove them, or choose a smaller image_size."
        )
    odd = Counter[float]()  # how many times too wide or too high images are
    for size, n in used.items():
        ratio = size[1] * height / (size[0] * width)
        odd[max(ratio, 1 / ratio)] += n
    cut = sum(n * (1 - 1 / ratio) for ratio, n in odd.items()) / max(total, 1)
    halved = sum(n for ratio, n in odd.items() if ratio > 2)
    stretched = sum(n for ratio, n in odd.items() if ratio > STRETCHED)
    if decoder.resize == "crop" and (halved or cut >= CROPPED):
        yield Finding(
            f"To make images {height}x{width}, {cut:.0%} of their area is cut off in the mean, and "
            f"{halved:,} of {total:,} lose more than half, which is never learned: give an "
            "image_size of their proportions, crop them by hand, or set data.source.resize=stretch."
        )
    if decoder.resize == "stretch" and stretched:
        yield Finding(
            f"{stretched:,} of {total:,} images are stretched by more than {STRETCHED} and learned "
            "out of proportion: give an image_size of theirs, or set data.source.resize=crop."
        )


def _number(record: Record) -> Iterator[Finding]:
    if len(record.indices) < FEW_IMAGES:
        yield Finding(
            f"There are only {len(record.indices):,} images, which a discriminator soon knows by "
            "heart: add images if you can, and leave model.augment on where the model has it."
        )
