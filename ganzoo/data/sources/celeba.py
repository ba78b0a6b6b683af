"""CelebA (Liu et al. 2015): 202,599 aligned faces with forty attributes, as distributed."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torchvision

from ganzoo.data.decode import Box
from ganzoo.data.encoded import EncodedImages, Listing
from ganzoo.data.files import open_files
from ganzoo.data.source import check_training, part
from ganzoo.errors import UserError, check_choice, first

SIZE = (218, 178)
CROPS = {
    "cx89cy121-128": Box(SIZE, 57, 25, 128, 128),  # Karras et al. 2018: centered at (89, 121)
    "center178": Box(SIZE, 20, 0, 178, 178),
    "center160": Box(SIZE, 29, 9, 160, 160),
    "center108": Box(SIZE, 55, 35, 108, 108),
    "resize": Box(SIZE, 0, 0, *SIZE),  # the full image, stretched
}
IMAGES = "img_align_celeba"
ATTRIBUTES, PARTITION = "list_attr_celeba", "list_eval_partition"
SPLITS = {"train": "0", "valid": "1", "test": "2"}


class CelebA(EncodedImages):
    """The aligned and cropped images, 178 pixels wide and 218 high.

    Args:
        root: the folder of the images, their zip, or a folder that contains one of them, directly
            or in torchvision's folder `celeba` or the official `Img`, `Anno` and `Eval`.
        image_size, channels, filter: see `Decoder`.
        crop: "cx89cy121-128" (PGGAN), "center178", "center160", "center108", or "resize" for the
            full image, stretched. The crop is then resized to `image_size`.
        attributes: names such as ["Male", "Smiling"]; their combinations are the classes.
        split: "train", "valid", "test" (as published, or else by `held_out`), or "all".
        held_out: share of the images that is "test" if the published split is missing.
        download: whether torchvision downloads missing files to `root` and checks the others.
    """

    name = "CelebA"

    def __init__(
        self,
        root: str,
        image_size: int | Sequence[int],
        channels: int = 3,
        crop: str = "center178",
        filter: str = "bicubic",
        attributes: Sequence[str] = (),
        split: str = "all",
        held_out: float = 0.0,
        download: bool = False,
    ) -> None:
        check_choice("data.source.crop", crop, list(CROPS))
        check_choice("data.source.split", split, [*SPLITS, "all"])
        resize = "stretch" if crop == "resize" else "crop"
        super().__init__(image_size, channels, resize, filter, CROPS[crop])
        self.root, self.crop, self.attributes = Path(root), crop, list(attributes)
        self.split, self.share, self.download = split, held_out, download

    def prepare(self) -> None:
        if not self.download:
            return
        try:
            torchvision.datasets.CelebA(str(self.root), download=True)
        except Exception as error:  # quotas and missing packages come as many types
            raise UserError(
                f"CelebA could not be downloaded ({' '.join(str(error).split())[:200]}): its host "
                f"limits downloads. {by_hand(self.root)}"
            ) from error

    def held_out(self) -> "CelebA":
        check_training(self.split)
        options = {k: v for k, v in self.decoding.items() if k != "resize"}  # follows from the crop
        root, crop, attributes = str(self.root), self.crop, self.attributes
        return CelebA(
            root, crop=crop, attributes=attributes, split="test", held_out=self.share, **options
        )

    def _list(self) -> Listing:
        files = open_files(self._find_images())
        names = [name for name in files.names if name.lower().endswith((".jpg", ".png"))]
        if not names:
            raise UserError(f"{files.root} has no images. {by_hand(self.root)}")
        notes = []
        kept = self._split(names)
        if len(kept) < len(names):
            notes.append(f"{len(kept)} of {len(names)} images are in the {self.split} split.")
            names = [names[i] for i in kept]
        if not self.attributes:
            return Listing(files, names, notes=notes)
        table = self._rows(ATTRIBUTES, names, "attributes")
        columns = {
            name: [("" if row[name] == "1" else "not ") + name for row in table]
            for name in table[0]
        }
        classes, labels = classes_of(columns, self.attributes)
        return Listing(files, names, classes, torch.tensor(labels), notes)

    def _find_images(self) -> Path:
        if self.root.is_file():
            return self.root
        for folder in self._folders():
            if (folder / IMAGES / IMAGES).is_dir():  # layout of Kaggle's archive
                return folder / IMAGES / IMAGES
            if (folder / IMAGES).is_dir():
                return folder / IMAGES
            if (folder / f"{IMAGES}.zip").is_file():
                return folder / f"{IMAGES}.zip"
        if self.root.is_dir() and any(self.root.glob("*.jpg")):
            return self.root
        raise UserError(
            f"CelebA is not in {self.root}: set data.source.root to it, or "
            f"data.source.download=true. {by_hand(self.root)}"
        )

    def _folders(self) -> list[Path]:
        return [self.root, *(self.root / name for name in ("celeba", "Img", "Anno", "Eval"))]

    def _split(self, names: list[str]) -> list[int]:
        if self.split == "all":
            return list(range(len(names)))
        if self._find_list(PARTITION) is None:
            check_choice(f"split without {PARTITION}.txt", self.split, ["train", "test"])
            return part(names, self.split, self.share)
        rows = self._rows(PARTITION, names, "split")
        (column,) = rows[0]
        return [i for i, row in enumerate(rows) if row[column] == SPLITS[self.split]]

    def _find_list(self, name: str) -> Path | None:
        nearby = [*self._folders(), self.root.parent, self.root.parent.parent]
        for folder in nearby:
            for suffix in (".txt", ".csv"):
                if (path := folder / f"{name}{suffix}").is_file():
                    return path
        return None

    def _rows(self, name: str, images: list[str], what: str) -> list[dict[str, str]]:
        """The row of each image in a list of CelebA: column -> value."""
        path = self._find_list(name)
        if path is None:
            raise UserError(
                f"The {what} of CelebA are in {name}.txt, which is not next to the images in "
                f"{self.root}: put it there."
            )
        lines = path.read_text().replace(",", " ").splitlines()
        if lines and lines[0].strip().isdecimal():  # the number of rows
            lines = lines[1:]
        header: list[str] = [what]
        table = {}
        for line in lines:
            first_word, *values = line.split()
            if "." not in first_word:
                header = values if first_word == "image_id" else [first_word, *values]
            else:
                table[first_word] = dict(zip(header, values, strict=True))
        missing = [image for image in images if Path(image).name not in table]
        if missing:
            raise UserError(
                f"{path} has no row for {len(missing)} of the images, such as {missing[0]}: use "
                "the list that belongs to these images."
            )
        return [table[Path(image).name] for image in images]


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
        f"{root / 'celeba'}, and run again; without attributes and splits, only the images are "
        "needed."
    )


def classes_of(
    columns: Mapping[str, Sequence[str]], chosen: Sequence[str]
) -> tuple[list[str], list[int]]:
    """Names of the classes, and the class of every image.

    Each combination of values of the chosen attributes that occurs is a class.

    Args:
        columns: attribute -> its value for every image.
        chosen: names of the chosen attributes.
    """
    unknown = [name for name in chosen if name not in columns]
    if unknown:
        raise UserError(
            f"There is no attribute {first(unknown)}: data.source.attributes may name "
            f"{', '.join(columns)}."
        )
    rows = [", ".join(values) for values in zip(*(columns[name] for name in chosen), strict=True)]
    classes = sorted(set(rows))
    number = {name: label for label, name in enumerate(classes)}
    return classes, [number[row] for row in rows]
