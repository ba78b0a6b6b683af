"""CelebA (Liu et al. 2015): 202,599 aligned faces with forty attributes, as distributed."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torchvision

from ganzoo.config.values import Share, Sides
from ganzoo.data.decode import Box
from ganzoo.data.encoded import EncodedImages, Listing
from ganzoo.data.files import Files, open_files
from ganzoo.data.source import fetching, part
from ganzoo.data.sources.folder import numbered
from ganzoo.errors import UserError, check_choice, first

SIZE = (218, 178)
CROPS = {
    "cx89cy121-128": Box(SIZE, 57, 25, 128, 128),  # Karras et al. 2018: centered at (89, 121)
    "center178": Box(SIZE, 20, 0, 178, 178),
    "center160": Box(SIZE, 29, 9, 160, 160),
    "center108": Box(SIZE, 55, 35, 108, 108),
    "resize": Box(SIZE, 0, 0, *SIZE),  # the full image, stretched
}
NUMBER = 202_599
IMAGES = "img_align_celeba"
ATTRIBUTES, PARTITION = "list_attr_celeba", "list_eval_partition"
SPLITS = {"train": "0", "valid": "1", "test": "2"}


class CelebA(EncodedImages):
    """The aligned and cropped images, 178 pixels wide and 218 high.

    Args:
        root: the folder of the images, their zip, or a folder that contains one of them, directly
            or in torchvision's folder `celeba` or the official `Img`, `Anno` and `Eval`; also
            Kaggle's archive.zip.
        image_size, channels, filter: see `Decoder`.
        crop: "cx89cy121-128" (PGGAN), "center178", "center160", "center108", or "resize" for the
            full image, stretched. The crop is then resized to `image_size`.
        attributes: names such as ["Male", "Smiling"]; their combinations are the classes.
        split: "train", "valid", "test" (as published, or else by `held_out`), or "all".
        held_out: share of the images that is "test" if the published split is missing.
        download: whether torchvision downloads all files to `root` if the images are missing.
    """

    name = "CelebA"
    test_split = "test"
    license = (
        "CelebA (Liu et al. 2015), for non-commercial research only; the images are from the "
        "Internet, and not its authors' own."
    )

    def __init__(
        self,
        root: str,
        image_size: Sides,
        channels: int = 3,
        crop: str = "center178",
        filter: str = "bicubic",
        attributes: Sequence[str] = (),
        split: str = "all",
        held_out: Share = 0.0,
        download: bool = False,
    ) -> None:
        check_choice("data.source.crop", crop, list(CROPS))
        check_choice("data.source.split", split, [*SPLITS, "all"])
        resize = "stretch" if crop == "resize" else "crop"
        super().__init__(image_size, channels, resize, filter, CROPS[crop])
        self.root, self.attributes = Path(root).expanduser(), list(attributes)
        self.split, self.share, self.download = split, held_out, download

    def prepare(self) -> None:
        if not self.download or self._images() is not None:
            return
        with fetching("Downloading CelebA", self.root, by_hand(self.root), "gdown", "celeba"):
            torchvision.datasets.CelebA(str(self.root), download=True)

    def _list(self) -> Listing:
        place = self._images()
        if place is None:
            raise UserError(
                f"CelebA is not in {self.root.resolve()}: set data.root to it, or "
                f"data.source.download=true. {by_hand(self.root)}"
            )
        files = open_files(place)
        names = [name for name in files.names if name.lower().endswith((".jpg", ".png"))]
        if not names:
            raise UserError(f"{files.root} has no images. {by_hand(self.root)}")
        notes, warnings = [], []
        if len(names) < 0.99 * NUMBER:
            warnings.append(
                f"{files.root} has only {len(names):,} of CelebA's {NUMBER:,} images: unpack them "
                "again, unless you only want some."
            )
        kept = self._split(files, names)
        if len(kept) < len(names):
            notes.append(f"{len(kept)} of {len(names)} images are in the {self.split} split.")
            names = [names[i] for i in kept]
        if not self.attributes:
            return Listing(files, names, notes=notes, warnings=warnings)
        table = self._rows(files, ATTRIBUTES, names, "attribute")
        if unknown := [name for name in self.attributes if name not in table[0]]:
            raise UserError(
                f"There is no attribute {first(unknown)}: data.source.attributes may name "
                f"{', '.join(table[0])}."
            )
        has = [
            [("" if row[name] == "1" else "not ") + name for name in self.attributes]
            for row in table
        ]
        classes, labels = numbered([", ".join(names) for names in has])
        return Listing(files, names, classes, torch.tensor(labels), notes, warnings)

    def _images(self) -> Path | None:
        """The folder or archive of the images, None if there is none."""
        places = [self.root] if self.root.is_file() else []
        for folder in self._folders():
            for name in (IMAGES, f"{IMAGES}_png"):
                # Kaggle's archive has a folder in a folder of the same name.
                places += [folder / name / name, folder / name, folder / f"{name}.zip"]
            places.append(folder / "archive.zip")  # as Kaggle calls it
        if any(path.suffix in (".jpg", ".png") for path in self.root.glob("*.*g")):
            places.append(self.root)
        return next((place for place in places if place.exists()), None)

    def _folders(self) -> list[Path]:
        return [self.root, *(self.root / name for name in ("celeba", "Img", "Anno", "Eval"))]

    def _split(self, files: Files, names: list[str]) -> list[int]:
        if self.split == "all":
            return list(range(len(names)))
        if self._text(files, PARTITION) is None:
            check_choice(f"split without {PARTITION}.txt", self.split, ["train", "test"])
            return part(names, self.split, self.share)
        rows = self._rows(files, PARTITION, names, "split")
        (column,) = rows[0]
        return [i for i, row in enumerate(rows) if row[column] == SPLITS[self.split]]

    def _text(self, files: Files, name: str) -> tuple[str, str] | None:
        """Name and text of a list of CelebA, next to the images or in their archive."""
        for folder in (*self._folders(), self.root.parent, self.root.parent.parent):
            for path in (folder / f"{name}.txt", folder / f"{name}.csv"):
                if path.is_file():
                    return str(path), path.read_text()
        for inside in (f"{name}.csv", f"{name}.txt"):
            if inside in files.names:
                with files.open(inside) as file:
                    return inside, file.read().decode()
        return None

    def _rows(self, files: Files, name: str, images: list[str], what: str) -> list[dict[str, str]]:
        """The row of each image in a list of CelebA: column -> value."""
        found = self._text(files, name)
        if found is None:
            raise UserError(f"Put {name}.txt, the {what}s of CelebA, into {self.root.resolve()}.")
        path, text = found
        lines = text.replace(",", " ").splitlines()
        if lines and lines[0].strip().isdecimal():  # the number of rows
            lines = lines[1:]
        header: list[str] = [what]
        table = {}
        for line in lines:
            first_word, *values = line.split()
            if "." not in first_word:
                header = values if first_word == "image_id" else [first_word, *values]
            else:
                table[Path(first_word).stem] = dict(zip(header, values, strict=True))
        missing = [image for image in images if Path(image).stem not in table]
        if missing:
            raise UserError(f"{path} has no row for {len(missing)} images, such as {missing[0]}.")
        return [table[Path(image).stem] for image in images]


def by_hand(root: Path) -> str:
    """A sentence on which files to get, and where to put them."""
    wanted = {
        name: md5
        for _, md5, name in torchvision.datasets.CelebA.file_list
        if Path(name).stem in (IMAGES, ATTRIBUTES, PARTITION)
    }
    files = ", ".join(f"{name} (MD5 {md5})" for name, md5 in wanted.items())
    return (
        f"Get {files} by hand from the site of its authors, put them unchanged into "
        f"{root.resolve() / 'celeba'}, and run again; without attributes and splits, only the "
        "images are needed."
    )
