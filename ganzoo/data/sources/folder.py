"""Any tree of image files: a folder, a zip or a tar."""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import torch

from ganzoo.data.decode import EXTENSIONS
from ganzoo.data.encoded import EncodedImages, Listing
from ganzoo.data.files import open_files
from ganzoo.data.source import check_training, part
from ganzoo.errors import UserError, check_choice, first


class Folder(EncodedImages):
    """All images below a root, sorted by path, brought to one size and number of channels.

    Files and folders whose names start with a dot are ignored, links are followed. If everything
    in an archive is in one folder, this folder is the root.

    Args:
        root: path of a folder, a zip, or an uncompressed tar.
        image_size, channels, resize, filter: see `Decoder`.
        labels: whether the folders in `root` are classes; None for yes if all images are in one.
        split: "train", "test" or "all".
        held_out: share of the images that is "test"; see `part`.
        splits: name of the folder of each split, such as {"train": "trainA", "test": "testA"};
            None to split by `held_out`.
    """

    def __init__(
        self,
        root: str,
        image_size: int | Sequence[int],
        channels: int = 3,
        labels: bool | None = None,
        resize: str = "crop",
        filter: str = "bicubic",
        split: str = "train",
        held_out: float = 0.0,
        splits: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(image_size, channels, resize, filter)
        if splits is None:
            part([], split, held_out)  # raises UserError for bad options
        else:
            check_choice("data.source.split", split, [*splits, "all"])
        self.splits = splits
        self.root, self.with_labels = Path(root), labels
        self.split, self.share = split, held_out
        self.name = self.root.stem or str(root)

    def held_out(self) -> "Folder":
        check_training(self.split)
        root, labels = str(self.root), self.with_labels
        return Folder(root, labels=labels, split="test", held_out=self.share, **self.decoding)

    def _list(self) -> Listing:
        if (self.root / "pack.json").is_file():
            raise UserError(
                f"{self.root} is a packed data set: read it with data=pack "
                f"data.source.root={self.root}."
            )
        files = open_files(self.root)
        suffixes = {name: PurePosixPath(name).suffix.lower() for name in files.names}
        names = [name for name in files.names if suffixes[name] in EXTENSIONS]
        if not names:
            blocked = f" {files.problems[0]}" if files.problems else ""
            raise UserError(
                f"{self.root} has no images ({', '.join(EXTENSIONS)}): set data.source.root to a "
                f"folder that has some.{blocked}"
            )
        if self.splits is not None:
            names = self._in_splits(names)
        others = sorted({s or "no extension" for s in suffixes.values() if s not in EXTENSIONS})
        notes = []
        if others:
            count = sum(suffix not in EXTENSIONS for suffix in suffixes.values())
            ignored = f"are not images and are ignored: {first(others)}"
            notes.append(f"{count} files in {self.root} {ignored}.")
        classes, labels = self._classes(names)
        kept = part(names, self.split, self.share) if self.splits is None else range(len(names))
        if len(kept) < len(names):
            notes.append(f"{len(kept)} of {len(names)} images are in the {self.split} split.")
        return Listing(
            files,
            [names[i] for i in kept],
            classes,
            None if labels is None else torch.tensor(labels)[kept],
            notes,
        )

    def _in_splits(self, names: list[str]) -> list[str]:
        """The images in the folders of the split, anywhere below the root."""
        assert self.splits is not None
        kept: list[str] = []
        for split, folder in self.splits.items():
            if self.split not in (split, "all"):
                continue
            places = {name: f"/{name}".partition(f"/{folder}/") for name in names}
            inside = [name for name, (_, found, _) in places.items() if found]
            parents = sorted({places[name][0] for name in inside})
            if not inside:
                raise UserError(
                    f"{self.root} has no folder {folder} with images: put the {split} images of "
                    "this domain there."
                )
            if len(parents) > 1:
                raise UserError(
                    f"{self.root} has several folders {folder} (in {first(parents)}): set the "
                    "root to the folder above one of them."
                )
            kept += inside
        return kept

    def _classes(self, names: list[str]) -> tuple[list[str] | None, list[int] | None]:
        loose = [name for name in names if "/" not in name]
        if self.with_labels and loose:
            raise UserError(
                f"{len(loose)} images in {self.root} are not in a class folder ({first(loose)}): "
                "move them into one, or set data.source.labels=false."
            )
        if loose or self.with_labels is False:
            return None, None
        tops = [name.split("/", 1)[0] for name in names]
        classes = sorted(set(tops))
        number = {name: label for label, name in enumerate(classes)}
        return classes, [number[top] for top in tops]
