"""ImageNet (Russakovsky et al. 2015): the photographs of ILSVRC2012 in a thousand classes."""

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import torchvision
from torchvision.datasets.imagenet import ARCHIVE_META, META_FILE, load_meta_file

from ganzoo.config.values import Sides
from ganzoo.data.decode import images_among
from ganzoo.data.encoded import EncodedImages, Listing
from ganzoo.data.files import Tree
from ganzoo.data.source import fetching
from ganzoo.errors import UserError, check_choice, first

log = logging.getLogger(__name__)


class ImageNet(EncodedImages):
    """1,281,167 training or 50,000 validation images.

    Each class has a folder, as torchvision unpacks the archives: `train/n01440764/*.JPEG` and
    `val/n01440764/*.JPEG`. Labels number the folders of `train` in the order of their names. The
    name of a class is the first one in torchvision's `meta.bin`, else its folder's.

    Args:
        root: the folder that contains `train` and `val`.
        image_size, decoding: see `EncodedImages`.
        split: "train" or "val".
        filter: see `Decoder`; "area" of the "crop" is the preprocessing of Brock et al. 2019.
        unpack: whether torchvision unpacks the archives in `root` if the split is missing.
    """

    test_split = "val"
    license = "ImageNet (Russakovsky et al. 2015), for non-commercial research and education only."

    def __init__(
        self,
        root: str,
        image_size: Sides,
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
        if not self.unpack or (self.root / self.split).is_dir():
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
        folder, train = self.root / self.split, self.root / "train"
        archives = f"{ARCHIVE_META[self.split][0]} and {ARCHIVE_META['devkit'][0]}"
        unpack = f"set data.source.unpack=true with {archives} in {self.root}"
        if not folder.is_dir():
            raise UserError(
                f"ImageNet's {self.split} is not in {self.root}: set data.root to the "
                f"folder that contains {self.split}/n01440764/*.JPEG, or {unpack}."
            )
        files = Tree(folder)
        names = images_among(files.names)
        packed = [name for name in files.names if name.endswith(".tar")]
        loose = packed or [name for name in names if "/" not in name]
        if loose or not names:
            raise UserError(
                f"{folder} has no images, or is not completely unpacked into a folder for each "
                f"class ({first(loose, 1)}): remove it and {unpack}."
            )
        wnids = [name.split("/", 1)[0] for name in names]
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

    def _titles(self, wnids: list[str]) -> list[str]:
        """Names of classes, with the wnid if two have the same name (there are two cranes)."""
        called = {}
        if (self.root / META_FILE).is_file():
            called = {wnid: names[0] for wnid, names in load_meta_file(self.root)[0].items()}
        titles = [called.get(wnid, wnid) for wnid in wnids]
        times = Counter(titles)
        return [
            f"{title} ({wnid})" if times[title] > 1 else title
            for title, wnid in zip(titles, wnids, strict=True)
        ]
