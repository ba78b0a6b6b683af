"""One domain of the data sets that CycleGAN's authors distribute (Zhu et al. 2017)."""

from collections.abc import Sequence
from typing import Any

from ganzoo.config.values import Sides
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
        image_size: Sides,
        split: str = "train",
        resize: str = "stretch",
        **decoding: Any,
    ) -> None:
        check_choice("domain", domain, ["A", "B"])
        super().__init__(root, image_size, False, split, resize=resize, **decoding)
        self.set, self.domain = name, domain
        self.name = f"{name} {domain} ({split})"

    def _list(self) -> Listing:
        places = [self.root / self.set, self.root / f"{self.set}.zip"]
        if self.root.is_file() or (self.root / f"train{self.domain}").is_dir():
            places.append(self.root)
        found = next((place for place in places if place.exists()), None)
        if found is None:
            raise UserError(
                f"There is no {self.set} in {self.root.resolve()}: get {self.set}.zip with "
                "datasets/download_cyclegan_dataset.sh of junyanz/pytorch-CycleGAN-and-pix2pix and "
                "put it there, unpacked or not, or set data.root to its folder."
            )
        self.root = found
        return super()._list()

    def _kept(self, names: Sequence[str]) -> list[int]:
        kept: list[int] = []
        for split in ("train", "test") if self.split == "all" else (self.split,):
            folder = f"{split}{self.domain}"
            inside = [i for i, name in enumerate(names) if name.startswith(f"{folder}/")]
            if not inside:
                raise UserError(
                    f"{self.root} has no folder {folder} with images: put the {split} images of "
                    f"{self.domain} there."
                )
            kept += inside
        return kept
