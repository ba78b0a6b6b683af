"""ImageNet (Russakovsky et al. 2015): the photographs of ILSVRC2012 in a thousand classes."""

import csv
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import torch
import torchvision
from torchvision.datasets.imagenet import ARCHIVE_META, META_FILE, load_meta_file

from ganzoo.data.decode import images_among
from ganzoo.data.encoded import EncodedImages, Listing
from ganzoo.data.files import Tree
from ganzoo.data.source import fetching
from ganzoo.errors import UserError, check_choice, first

log = logging.getLogger(__name__)

KAGGLE = Path("ILSVRC/Data/CLS-LOC")
KAGGLE_NAMES, KAGGLE_SOLUTION = "LOC_synset_mapping.txt", "LOC_val_solution.csv"


class ImageNet(EncodedImages):
    """1,281,167 training or 50,000 validation images.

    Each class has a folder, as torchvision unpacks the archives (`train/n01440764/*.JPEG` and
    `val/n01440764/*.JPEG`), or in Kaggle's layout (`ILSVRC/Data/CLS-LOC/train/...`, and all of
    `val` in one folder with `LOC_val_solution.csv`).

    Labels number the folders of `train` in the order of their names. The name of a class is the
    first one in torchvision's `meta.bin` or Kaggle's `LOC_synset_mapping.txt`, else its folder's.

    Args:
        root: the folder that contains `train` and `val`, or Kaggle's `ILSVRC`.
        image_size, decoding: see `EncodedImages`.
        split: "train" or "val".
        filter: see `Decoder`; "area" of the "crop" is the preprocessing of Brock et al. 2019.
        unpack: whether torchvision unpacks the archives in `root` if the split is missing.
    """

    test_split = "val"

    def __init__(
        self,
        root: str,
        image_size: int | Sequence[int],
        split: str = "train",
        filter: str = "area",
        unpack: bool = False,
        **decoding: Any,
    ) -> None:
        check_choice("data.source.split", split, ["train", "val"])
        super().__init__(image_size, filter=filter, **decoding)
        self.root, self.split, self.unpack = Path(root).expanduser(), split, unpack
        self.name = f"ImageNet ({split})"

    def prepare(self) -> None:
        if not self.unpack or self._base is not None:
            return
        archives = [ARCHIVE_META[self.split][0]]
        if not (self.root / META_FILE).is_file():
            archives.append(ARCHIVE_META["devkit"][0])
        missing = [name for name in archives if not (self.root / name).is_file()]
        if missing:
            raise UserError(
                f"ImageNet cannot be unpacked without {' and '.join(missing)}: get them from "
                f"image-net.org and put them into {self.root}."
            )
        log.info("unpacking %s, which takes a while", " and ".join(archives))
        again = f"Remove {self.root / self.split} if it exists, and run again."
        with fetching("Unpacking ImageNet", self.root, again, "scipy", "imagenet"):
            torchvision.datasets.ImageNet(str(self.root), self.split)

    def _list(self) -> Listing:
        if self._base is None:
            raise self._nowhere()
        folder = self._base / self.split
        files = Tree(folder)
        names = images_among(files.names)
        packed = [name for name in files.names if name.endswith(".tar")]
        if packed:
            raise UserError(
                f"{folder} is not completely unpacked ({first(packed, 1)} is still there): remove "
                f"it and set data.source.unpack=true with the archives in {self.root}, or unpack "
                "each tar into a folder of its name by hand, then remove the tar."
            )
        if not names:
            raise UserError(f"{folder} has no images: set data.source.root to their folder.")
        wnids = self._wnids(folder, names)
        train = self._base / "train"
        folders = [p.name for p in train.iterdir() if p.is_dir()] if train.is_dir() else wnids
        known = sorted({name for name in folders if not name.startswith(".")})
        number = {wnid: label for label, wnid in enumerate(known)}
        unknown = sorted(set(wnids) - set(known))
        if unknown:
            raise UserError(
                f"{folder} has {len(unknown)} classes that have no folder in {train} "
                f"({first(unknown)}): complete {train}, which numbers the classes, or move it away."
            )
        labels = torch.tensor([number[wnid] for wnid in wnids])
        return Listing(files, names, self._titles(known), labels)

    @property
    def _base(self) -> Path | None:
        """The folder that contains the folder of the split."""
        bases = [self.root, self.root / KAGGLE]
        return next((base for base in bases if (base / self.split).is_dir()), None)

    def _nowhere(self) -> UserError:
        archive = ARCHIVE_META[self.split][0]
        if (self.root / archive).is_file():
            return UserError(
                f"{archive} in {self.root} is not unpacked yet: set data.source.unpack=true."
            )
        return UserError(
            f"ImageNet's {self.split} is not in {self.root}: set data.source.root to the folder "
            f"that contains {self.split}/n01440764/*.JPEG, to Kaggle's folder ILSVRC, or, with "
            f"data.source.unpack=true, to {archive} and {ARCHIVE_META['devkit'][0]}."
        )

    def _wnids(self, folder: Path, names: list[str]) -> list[str]:
        """The class of each image."""
        loose = [name for name in names if "/" not in name]
        path = self.root / KAGGLE_SOLUTION
        solution = {}
        if loose and self.split == "val" and path.is_file():
            with path.open(newline="") as file:  # ILSVRC2012_val_00048981,n03995372 85 1 499 272
                rows = csv.DictReader(file)
                solution = {r["ImageId"]: r["PredictionString"].split()[0] for r in rows}
        unknown = [name for name in loose if PurePosixPath(name).stem not in solution]
        if unknown:
            other = f"put Kaggle's {KAGGLE_SOLUTION} into {self.root}, or "
            raise UserError(
                f"{len(unknown)} images in {folder} are not in a class folder ({first(unknown)}): "
                f"{other if self.split == 'val' else ''}remove {folder} and set "
                f"data.source.unpack=true with ImageNet's archives in {self.root}."
            )
        return [n.split("/", 1)[0] if "/" in n else solution[PurePosixPath(n).stem] for n in names]

    def _titles(self, wnids: list[str]) -> list[str]:
        """Names of classes, with the wnid if two have the same name (there are two cranes)."""
        called = {}
        if (self.root / META_FILE).is_file():
            try:
                called = {wnid: names[0] for wnid, names in load_meta_file(self.root)[0].items()}
            except Exception as error:  # unpickling a damaged file may raise anything
                raise UserError(
                    f"{self.root / META_FILE} cannot be read ({' '.join(str(error).split())}): "
                    "remove it (classes then have no names), or create it again."
                ) from error
        elif (path := self.root / KAGGLE_NAMES).is_file():
            lines = [line.partition(" ") for line in path.read_text().splitlines()]
            called = {wnid: names.split(",")[0].strip() for wnid, _, names in lines}
        titles = [called.get(wnid, wnid) for wnid in wnids]
        times = Counter(titles)
        return [
            f"{title} ({wnid})" if times[title] > 1 else title
            for title, wnid in zip(titles, wnids, strict=True)
        ]
