"""One domain of the data sets that CycleGAN's authors distribute (Zhu et al. 2017)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ganzoo.data.encoded import Listing
from ganzoo.data.sources.folder import Folder
from ganzoo.errors import UserError, check_choice


class Domain(Folder):
    """The images of trainA or trainB, testA or testB.

    Args:
        root: the folder of a data set, its zip, or a folder with `name` or `name`.zip.
        name: name of the data set, such as horse2zebra.
        domain: "A" or "B".
        image_size, resize, decoding: see `EncodedImages`.
        split: "train", "test" or "all".
    """

    def __init__(
        self,
        root: str,
        name: str,
        domain: str,
        image_size: int | Sequence[int],
        split: str = "train",
        resize: str = "stretch",
        **decoding: Any,
    ) -> None:
        check_choice("domain", domain, ["A", "B"])
        splits = {part: f"{part}{domain}" for part in ("train", "test")}
        super().__init__(root, image_size, False, split, splits=splits, resize=resize, **decoding)
        self.set, self.domain = name, domain
        self.name = f"{name} {domain} ({split})"

    def _list(self) -> Listing:
        self.root = self._place()
        return super()._list()

    def _place(self) -> Path:
        """The folder or zip of the data set."""
        for place in (self.root / self.set, self.root / f"{self.set}.zip"):
            if place.exists():
                return place
        assert self.splits is not None
        if self.root.is_file() or any((self.root / f).is_dir() for f in self.splits.values()):
            return self.root
        raise UserError(
            f"There is no {self.set} in {self.root.resolve()}: get {self.set}.zip with "
            "datasets/download_cyclegan_dataset.sh of junyanz/pytorch-CycleGAN-and-pix2pix and put "
            "it there, unpacked or not, or set data.source.root to its folder."
        )
