"""MNIST, Fashion-MNIST, digits in three channels and CIFAR-10 in the layouts of their files."""

import numpy as np
import pytest
import torch
from makers.files import DEBIAN, FASHION, LABELS, write_cifar10, write_fashion
from torchvision.datasets import FashionMNIST as Torchvision

from ganzoo.data.sources.cifar10 import CIFAR10
from ganzoo.data.sources.mnist import MNIST, MNISTRGB, FashionMNIST
from ganzoo.errors import UserError

# -- MNIST, Fashion-MNIST --------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("kind", "layout"),
    [(FashionMNIST, "."), (FashionMNIST, "FashionMNIST/raw"), (MNIST, "."), (MNIST, "MNIST/raw")],
)
def test_mnist_reads_every_layout(tmp_path, packed, kind, layout) -> None:
    write_fashion(tmp_path / layout, packed, "t10k")
    source = kind(str(tmp_path), "test")
    batch = source.__getitems__([4, 0])
    assert source.shape == (1, 32, 32)
    assert batch["label"].tolist() == [1, 9]
    assert batch["label"].dtype == torch.int64
    assert np.array_equal(batch["image"][:, 0, 2:30, 2:30].numpy(), FASHION[[4, 0]])
    assert batch["image"].sum() == FASHION[[4, 0]].sum(dtype=np.int64)  # the border is 0
    color = kind(str(tmp_path), "test", pad=0, channels=3).__getitems__([1])["image"]
    assert np.array_equal(color[0].numpy(), np.stack([FASHION[1]] * 3))


def test_mnist_rgb_is_three_digits_of_mnist(tmp_path) -> None:
    write_fashion(tmp_path)
    source = MNISTRGB(str(tmp_path), num=50)
    stream = np.random.RandomState(123)  # an image after the other, as in the official code
    chosen = np.stack([stream.randint(5, size=3) for _ in range(50)])
    batch = source.__getitems__([49, 7, 0])
    assert (source.shape, len(source), batch["image"].dtype) == ((3, 32, 32), 50, torch.uint8)
    for image, label, digits in zip(
        batch["image"].numpy(), batch["label"], chosen[[49, 7, 0]], strict=True
    ):
        assert np.array_equal(image[:, 2:30, 2:30], FASHION[digits])
        assert image.sum() == FASHION[digits].sum(dtype=np.int64)
        assert source.classes[label] == "".join(str(LABELS[digit]) for digit in digits)
    assert torch.equal(source.labels()[[49, 7, 0]], batch["label"])
    assert len(source.classes) == 1000
    fewer, other = MNISTRGB(str(tmp_path), num=8), MNISTRGB(str(tmp_path), num=50, seed=1)
    assert torch.equal(fewer.__getitems__([7])["image"], batch["image"][1:2])
    assert not torch.equal(other.labels(), source.labels())
    with pytest.raises(UserError, match=r"MNIST \(t10k-labels-idx1-ubyte\) is not in"):
        MNISTRGB(str(tmp_path), "test").labels()


def test_the_official_images_of_mnist_rgb(tmp_path, monkeypatch) -> None:
    """The first triple that NumPy draws from seed 123 among 60,000."""
    monkeypatch.setattr(MNIST, "__len__", lambda _: 60_000)
    assert MNISTRGB(str(tmp_path))._chosen[:2].tolist() == [
        [52734, 15725, 28030],
        [17730, 54370, 15377],
    ]


def test_fashion_mnist_missing_or_broken(tmp_path) -> None:
    with pytest.raises(UserError, match=r"root.*download=true"):
        len(FashionMNIST(str(tmp_path)))
    write_fashion(tmp_path)
    file = tmp_path / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match="train-images-idx3-ubyte is damaged or incomplete"):
        FashionMNIST(str(tmp_path)).__getitems__([0])
    with pytest.raises(UserError, match="split"):
        FashionMNIST(str(tmp_path), split="val")


def test_fashion_mnist_downloads_only_when_asked(tmp_path, monkeypatch) -> None:
    def download(self) -> None:
        raise RuntimeError("no\nnetwork")

    monkeypatch.setattr(Torchvision, "download", download)
    FashionMNIST(str(tmp_path)).prepare()
    asked = FashionMNIST(str(tmp_path), download=True)
    with pytest.raises(UserError, match=r"failed \(no network\): .* Put its four"):
        asked.prepare()
    write_fashion(tmp_path)
    asked.prepare()  # the files are there


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_fashion_mnist_of_debian() -> None:
    source = FashionMNIST(str(DEBIAN), "test")
    assert torch.bincount(source.labels()).tolist() == [1000] * 10
    assert source.__getitems__([0, 9999])["image"].shape == (2, 1, 32, 32)
    assert (
        source.classes[int(source.labels()[0])] == "Ankle boot"
    )  # the data set's first test image


# -- CIFAR-10 --------------------------------------------------------------------------------------


def test_cifar10_in_its_layout(tmp_path, monkeypatch) -> None:
    pixels = write_cifar10(tmp_path, monkeypatch)
    source = CIFAR10(str(tmp_path))
    assert len(source) == 10
    assert source.classes == [str(i) for i in range(10)]
    batch = source.__getitems__([9, 0])
    # the files hold red, green and blue planes, each row by row
    assert torch.equal(batch["image"][0], torch.from_numpy(pixels[1].reshape(3, 32, 32)))
    assert batch["label"].tolist() == [7, 3]
    with pytest.raises(UserError, match="download=true"):
        len(CIFAR10(str(tmp_path / "nowhere")))
