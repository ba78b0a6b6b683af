"""Any tree of image files: a folder, a zip or a tar."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ganzoo.config.values import Share, Sides
from ganzoo.data.decode import EXTENSIONS, UNREAD, extension, images_among
from ganzoo.data.encoded import EncodedImages, Listing
from ganzoo.data.files import Files, open_files
from ganzoo.data.source import part
from ganzoo.errors import UserError, check_choice, first

LABELS = "dataset.json"  # in data sets made by the dataset_tool.py of StyleGAN, EDM and others

Classes = tuple[list[str] | None, list[int] | None]  # names of the classes, class of each image


class Folder(EncodedImages):
    """All images below a root, sorted by path, brought to one size and number of channels.

    Files and folders whose names start with a dot are ignored, links are followed. If everything
    in an archive is in one folder, this folder is the root.

    Args:
        root: path of a folder, a zip, or an uncompressed tar.
        image_size, decoding: see `EncodedImages`.
        labels: whether the folders in `root` are classes, or those in its `dataset.json`, if it
            has one; None for yes if all images are in one.
        split: "train", "test" or "all".
        held_out: share of the images that is "test"; see `part`.
    """

    test_split = "test"

    def __init__(
        self,
        root: str,
        image_size: Sides,
        labels: bool | None = None,
        split: str = "train",
        held_out: Share = 0.0,
        **decoding: Any,
    ) -> None:
        super().__init__(image_size, **decoding)
        check_choice("data.source.split", split, ["train", "test", "all"])
        self.root, self.with_labels = Path(root).expanduser(), labels
        self.split, self.share = split, held_out
        self.name = self.root.stem or str(root)

    def _list(self) -> Listing:
        if (self.root / "pack.json").is_file():
            raise UserError(
                f"{self.root} is a packed data set: read it with data=pack data.root={self.root}."
            )
        files = open_files(self.root)
        names = images_among(files.names)
        notes, warnings = self._left_out(files, len(names))
        if not names:
            raise UserError(
                f"{self.root} has no images ({', '.join(EXTENSIONS)}): set data.root to a "
                f"folder that has some. {' '.join([*files.problems[:1], *warnings])}".strip()
            )
        classes, labels = self._classes(files, names)
        kept = self._kept(names)
        if len(kept) < len(names):
            notes.append(f"{len(kept)} of {len(names)} images are in the {self.split} split.")
        return Listing(
            files,
            [names[i] for i in kept],
            classes,
            None if labels is None else torch.tensor(labels)[kept],
            notes,
            warnings,
        )

    def _kept(self, names: Sequence[str]) -> list[int]:
        """The indices of the images in the split."""
        return part(names, self.split, self.share)

    def _left_out(self, files: Files, images: int) -> tuple[list[str], list[str]]:
        """Notes on files that are not read, and warnings if that is probably a mistake."""
        kinds = Counter(extension(name) for name in files.names if name != LABELS)
        unread = Counter({kind: n for kind, n in kinds.items() if kind in UNREAD})
        others = kinds - unread - Counter(dict.fromkeys(EXTENSIONS, kinds.total()))
        notes: list[str] = []
        warnings: list[str] = []
        if unread:
            warnings.append(
                f"{unread.total()} pictures in {self.root} have a format that is not read "
                f"({first(sorted(unread))}): convert them to PNG or JPEG (.heic is read after pip "
                "install pillow-heif)."
            )
        if others:
            ignored = (
                f"{others.total()} files in {self.root} are not images and are ignored: "
                f"{first(sorted(kind or 'no extension' for kind in others))}."
            )
            (warnings if others.total() > images else notes).append(ignored)
        return notes, warnings

    def _classes(self, files: Files, names: list[str]) -> Classes:
        if self.with_labels is False:
            return None, None
        if LABELS in files.names and (found := self._classes_in_json(files, names)) is not None:
            return found
        loose = [name for name in names if "/" not in name]
        if self.with_labels and loose:
            raise UserError(
                f"{len(loose)} images in {self.root} are not in a class folder ({first(loose)}): "
                "move them into one, or set data.source.labels=false."
            )
        return (None, None) if loose else numbered([name.split("/", 1)[0] for name in names])

    def _classes_in_json(self, files: Files, names: list[str]) -> Classes | None:
        """Classes in `dataset.json`, whose folders are not classes; None if it is another file."""
        try:
            with files.open(LABELS) as file:
                listed = json.load(file)["labels"]
            table = dict(listed or [])
        except (ValueError, KeyError, TypeError):
            return None
        if not table:
            return None, None
        missing = [name for name in names if not isinstance(table.get(name), int)]
        if missing:
            raise UserError(
                f"{LABELS} in {self.root} has no class, a whole number, for {len(missing)} images "
                f"({first(missing)}): complete it, or set data.source.labels=false."
            )
        return numbered([str(table[name]) for name in names])


def numbered(names: Sequence[str]) -> tuple[list[str], list[int]]:
    """The sorted classes, numerically if all are numbers, and the number of each one in `names`."""
    classes = sorted(set(names))
    if all(name.isdecimal() for name in classes):
        classes.sort(key=int)
    number = {name: label for label, name in enumerate(classes)}
    return classes, [number[name] for name in names]
