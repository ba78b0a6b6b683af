"""MNIST (LeCun et al. 1998) and Fashion-MNIST (Xiao et al. 2017), read by torchvision.

Also MNIST-RGB, whose images have three digits each.
"""

import gzip
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from ganzoo.config.values import Natural, Positive
from ganzoo.data.source import Source, fetching
from ganzoo.errors import UserError, check_choice

SIDE = 28
FILES = {"train": "train", "test": "t10k"}


class MNIST(Source):
    """60,000 training and 10,000 test images of handwritten digits.

    Args:
        root: folder of the idx files, gzipped or not, directly or in torchvision's layout
            (MNIST/raw).
        split: "train" or "test".
        pad: number of black pixels added on every side; 2 makes 32x32.
        channels: 1, or 3 to repeat the gray channel three times.
        download: whether to download missing files to `root`, checked by torchvision.
    """

    test_split = "test"
    title = "MNIST"
    license = "MNIST by Yann LeCun and Corinna Cortes, CC BY-SA 3.0 (according to Keras)."
    reader = torchvision.datasets.MNIST

    def __init__(
        self,
        root: str = "data",
        split: str = "train",
        pad: Natural = 2,
        channels: int = 1,
        download: bool = False,
    ) -> None:
        check_choice("data.source.split", split, list(FILES))
        check_choice("channels", channels, [1, 3])
        self.name = f"{self.title} ({split})"
        self.root, self.split, self.download = Path(root).expanduser(), split, download
        self.pad = pad
        self.classes = list(self.reader.classes)
        self.shape = channels, SIDE + 2 * pad, SIDE + 2 * pad
        self.notes = [f"Images are padded with {pad} black pixels on every side."] if pad else []
        if channels == 3:
            self.notes.append("The gray channel is repeated three times.")

    def prepare(self) -> None:
        if not self.download or (self._find("images-idx3") and self._find("labels-idx1")):
            return
        by_hand = f"Put its four idx files into {self.root} by hand."
        with fetching(f"Downloading {self.title}", self.root, by_hand):
            self.reader(str(self.root), download=True)

    def labels(self) -> Tensor:
        return self._labels

    def __len__(self) -> int:
        return len(self._labels)

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        images = F.pad(self._images[indices], (self.pad,) * 4)
        return {
            "image": images[:, None].repeat(1, self.shape[0], 1, 1),
            "label": self._labels[indices],
        }

    @cached_property
    def _images(self) -> Tensor:
        images = self._read("images-idx3")
        if images.shape != (len(self), SIDE, SIDE):
            raise UserError(
                f"The images of {self.name} in {self.root} have shape {list(images.shape)}, but "
                f"the labels require {[len(self), SIDE, SIDE]}: download the files again."
            )
        return images

    @cached_property
    def _labels(self) -> Tensor:
        return self._read("labels-idx1").long()

    def _find(self, kind: str) -> Path | None:
        for folder in (self.root, self.root / self.reader.__name__ / "raw"):
            for suffix in ("", ".gz"):
                path = folder / f"{FILES[self.split]}-{kind}-ubyte{suffix}"
                if path.is_file():
                    return path
        return None

    def _read(self, kind: str) -> Tensor:
        path = self._find(kind)
        if path is None:
            raise UserError(
                f"{self.title} ({FILES[self.split]}-{kind}-ubyte) is not in {self.root}: set "
                "data.root to the folder with its files, or data.source.download=true."
            )
        try:
            data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            dimensions = data[3]  # idx: a magic number, the size of each dimension, the values
            shape = np.frombuffer(data, ">i4", dimensions, offset=4)
            values = np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
        except Exception as error:  # damaged headers may raise anything
            raise UserError(f"{path} is damaged or incomplete: download it again.") from error
        return torch.from_numpy(values.copy())


class FashionMNIST(MNIST):
    """60,000 training and 10,000 test images of clothing in ten classes; see `MNIST`."""

    title = "Fashion-MNIST"
    license = "Fashion-MNIST by Zalando SE (Xiao et al. 2017), MIT License."
    reader = torchvision.datasets.FashionMNIST


class MNISTRGB(Source):
    """Color images of three random digits of MNIST; see `MNIST`.

    A label is the number from 0 to 999 that red, green and blue make in this order. Image i is the
    same for any `num`; with the default seed it is image i of PGGAN's data set (Karras et al.
    2018).

    Args:
        root, split, pad, download: see `MNIST`.
        seed: random seed of the choice of digits.
    """

    test_split = "test"
    license = MNIST.license

    def __init__(
        self,
        root: str = "data",
        split: str = "train",
        num: Positive = 1_000_000,
        seed: int = 123,
        pad: Natural = 2,
        download: bool = False,
    ) -> None:
        self.digits = MNIST(root, split, pad, 1, download)
        self.name = f"MNIST-RGB ({split})"
        self.split, self.num, self.seed = split, num, seed
        self.classes = [f"{number:03}" for number in range(1000)]
        self.shape = 3, *self.digits.shape[1:]
        self.notes = ["Three digits are red, green and blue.", *self.digits.notes]

    def prepare(self) -> None:
        self.digits.prepare()

    def held_out(self) -> Source:
        other = super().held_out()
        digits = self.digits.held_out()
        assert isinstance(other, MNISTRGB)
        assert isinstance(digits, MNIST)
        other.digits = digits
        return other

    def labels(self) -> Tensor:
        return self.digits.labels()[self._chosen] @ torch.tensor([100, 10, 1])

    def __len__(self) -> int:
        return self.num

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        digits = self.digits.__getitems__(self._chosen[indices].flatten().tolist())
        return {
            "image": digits["image"].reshape(-1, *self.shape),
            "label": digits["label"].reshape(-1, 3) @ torch.tensor([100, 10, 1]),
        }

    @cached_property
    def _chosen(self) -> Tensor:
        """The digits of each image, int64 [num, 3]."""
        # PGGAN's data set was made with this generator, whose stream NumPy never changes.
        stream = np.random.RandomState(self.seed)
        return torch.from_numpy(stream.randint(len(self.digits), size=(self.num, 3)))
