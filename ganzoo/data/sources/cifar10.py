"""CIFAR-10 (Krizhevsky 2009), read by torchvision."""

from functools import cached_property
from pathlib import Path

import torch
import torchvision
from torch import Tensor

from ganzoo.data.source import Source, fetching
from ganzoo.errors import UserError, check_choice


class CIFAR10(Source):
    """50,000 training or 10,000 test images of 32x32 in ten classes.

    Args:
        root: folder that contains `cifar-10-batches-py`, as in the archive.
        split: "train" or "test".
        download: whether to download and unpack the archive into `root` if missing (170 MB).
    """

    shape = (3, 32, 32)
    test_split = "test"
    license = "CIFAR-10 (Krizhevsky 2009), no license known: see cs.toronto.edu/~kriz/cifar.html."

    def __init__(self, root: str = "data", split: str = "train", download: bool = False) -> None:
        check_choice("data.source.split", split, ["train", "test"])
        self.name = f"CIFAR-10 ({split})"
        self.root, self.split, self.download = Path(root).expanduser(), split, download

    @property
    def classes(self) -> list[str]:  # type: ignore[override]
        return list(self._data.classes)

    def prepare(self) -> None:
        by_hand = f"Put cifar-10-python.tar.gz into {self.root} by hand and run again."
        if self.download:
            with fetching("Downloading CIFAR-10", self.root, by_hand):
                torchvision.datasets.CIFAR10(self.root, download=True)

    def labels(self) -> Tensor:
        return torch.tensor(self._data.targets)

    def __len__(self) -> int:
        return len(self._data.data)

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        images = torch.from_numpy(self._data.data[indices])  # NHWC
        labels = torch.tensor([self._data.targets[i] for i in indices])
        return {"image": images.permute(0, 3, 1, 2).contiguous(), "label": labels}

    @cached_property
    def _data(self) -> torchvision.datasets.CIFAR10:
        try:
            return torchvision.datasets.CIFAR10(self.root, train=self.split == "train")
        except RuntimeError as error:  # missing files or wrong checksums
            raise UserError(
                f"CIFAR-10 is missing or incomplete in {self.root}: set data.root to the "
                "folder that contains cifar-10-batches-py, or data.source.download=true."
            ) from error
