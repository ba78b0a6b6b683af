"""Image files that are decoded when they are shown."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import UnidentifiedImageError
from torch import Tensor

from ganzoo import __version__
from ganzoo.config.values import Count, Sides
from ganzoo.data.decode import FILTERS, RESIZES, Box, Decoder, Header
from ganzoo.data.files import Files, Tree
from ganzoo.data.source import SAMPLED, Source, evenly, pair
from ganzoo.errors import UserError, check_choice, first, shown


class Listing(NamedTuple):
    """The files that are images, and the class of each."""

    files: Files
    names: Sequence[str]
    classes: list[str] | None = None
    labels: Tensor | None = None
    notes: Sequence[str] = ()
    warnings: Sequence[str] = ()  # notes on what is probably a mistake


class EncodedImages(Source):
    """A source of image files. A subclass sets `name` and defines `_list`; see `Decoder`.

    Args:
        image_size: size to deliver, one int or [height, width]; the smallest if sizes vary.
        channels, resize, filter, box: see `Decoder`.
    """

    def __init__(
        self,
        image_size: Sides,
        channels: Count = 3,
        resize: str = "crop",
        filter: str = "bicubic",
        box: Box | None = None,
    ) -> None:
        check_choice("data.source.resize", resize, RESIZES)
        check_choice("data.source.filter", filter, FILTERS)
        self.decoder = Decoder(pair(image_size), channels, resize, filter, box)
        self.shape = (channels, *self.decoder.size)
        self.varies = resize in ("width", "none")

    def _list(self) -> Listing:
        """Find the images; UserError if there are none."""
        raise NotImplementedError

    @cached_property
    def listing(self) -> Listing:
        return self._list()

    @property
    def classes(self) -> list[str] | None:  # type: ignore[override]
        return self.listing.classes

    @property
    def problems(self) -> Sequence[str]:  # type: ignore[override]
        return self.listing.files.problems

    @property
    def notes(self) -> list[str]:  # type: ignore[override]
        """Notes on what is left out and converted, from the headers of up to 2000 files."""
        if self.problems:
            raise UserError(self.problems[0])
        bad = {self.name_of(i): h for i, h in self._headers.items() if isinstance(h, str)}
        if bad:
            raise UserError(
                f"{len(bad)} of {len(self._headers)} inspected images in "
                f"{self.listing.files.root} cannot be read ({first(list(bad))}; the first one: "
                f"{next(iter(bad.values()))}): fix or remove them; python -m ganzoo.doctor lists "
                "them all."
            )
        return self.conversions

    @property
    def conversions(self) -> list[str]:
        good = [header for header in self._headers.values() if isinstance(header, Header)]
        return [*self.listing.warnings, *self.converted(good)]

    def converted(self, headers: Sequence[Header]) -> list[str]:
        """Notes on what is left out, and on conversions of images with these headers."""
        notes = self.decoder.notes(headers, len(self))
        return [*self.listing.files.notes, *self.listing.notes, *notes]

    @cached_property
    def _headers(self) -> dict[int, Header | str]:
        places = evenly(len(self), SAMPLED)
        with ThreadPoolExecutor() as threads:
            return dict(zip(places, threads.map(self.header, places), strict=True))

    @property
    def folder(self) -> Path | None:  # type: ignore[override]
        files = self.listing.files
        return files.root if isinstance(files, Tree) else None

    def labels(self) -> Tensor | None:
        return self.listing.labels

    def name_of(self, index: int) -> str:
        return self.listing.names[index]

    def __len__(self) -> int:
        return len(self.listing.names)

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        images = [self._load(self.name_of(i)) for i in indices]
        batch: dict[str, Any] = {"image": images if self.varies else torch.stack(images)}
        labels = self.listing.labels
        return batch if labels is None else {**batch, "label": labels[indices]}

    def digest(self, indices: Sequence[int]) -> str:
        """SHA-256 of the files and of the options of decoding them."""

        def digest_of(some: Sequence[int]) -> bytes:
            digest = hashlib.sha256()
            for index in some:
                with self.listing.files.open(self.name_of(index)) as file:
                    digest.update(hashlib.sha256(file.read()).digest())
            return digest.digest()

        labels = self.listing.labels
        total = hashlib.sha256(repr((__version__, self.decoder)).encode())
        total.update(b"" if labels is None else labels[list(indices)].numpy().tobytes())
        with ThreadPoolExecutor() as threads:
            parts = [indices[start : start + 256] for start in range(0, len(indices), 256)]
            for digest in threads.map(digest_of, parts):
                total.update(digest)
        return total.hexdigest()

    def fingerprint(self) -> str:
        """Of the names, sizes and labels of all files, and of the first bytes of some."""

        def start(index: int) -> bytes:
            with self.listing.files.open(self.name_of(index)) as file:
                return hashlib.sha256(file.read(65536)).digest()

        names = self.listing.names
        labels = None if self.listing.labels is None else self.listing.labels.tolist()
        facts = list(names), self.listing.files.sizes(names), labels
        digest = hashlib.sha256(repr(facts).encode(errors="surrogateescape"))
        with ThreadPoolExecutor() as threads:
            digest.update(b"".join(threads.map(start, evenly(len(names), SAMPLED))))
        return digest.hexdigest()

    def header(self, index: int) -> Header | str:
        """Facts about image `index`, or why it cannot be read."""
        try:
            with self.listing.files.open(self.name_of(index)) as file:
                return self.decoder.header(file)
        except Exception as error:  # decoders raise many types
            return reason(error)

    def _load(self, name: str) -> Tensor:
        try:
            with self.listing.files.open(name) as file:
                return self.decoder(file.read())
        except Exception as error:  # decoders raise many types
            raise UserError(
                f"{self.listing.files.root / shown(name)} cannot be read ({reason(error)}): remove "
                "it or save it again."
            ) from error


def reason(error: Exception) -> str:
    """The message of an exception, in one line."""
    if isinstance(error, UnidentifiedImageError):
        return "it is not an image, or has an unknown format"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror  # without the file name, which the sentence has already
    return " ".join(str(error).split()) or type(error).__name__
