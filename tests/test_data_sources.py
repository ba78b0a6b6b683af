"""Sources: their pixels and labels against independent truth, their refusals."""

import gzip
import hashlib
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from makers.tiny import config
from PIL import Image
from torchvision.datasets import FashionMNIST as Torchvision

from ganzoo.config import make
from ganzoo.data import ImageData
from ganzoo.data.decode import Decoder
from ganzoo.data.sources.cifar10 import CIFAR10
from ganzoo.data.sources.emoji import PACK, Emoji
from ganzoo.data.sources.folder import Folder
from ganzoo.data.sources.mnist import MNIST, MNISTRGB, FashionMNIST
from ganzoo.errors import UserError

# -- emoji: counts and hashes of the pack's own documentation --------------------------------------

BASE = [169, 386, 159, 131, 218, 85, 264, 224, 270]
WITH_VARIANTS = [169, 2261, 159, 131, 218, 85, 264, 224, 270]
TEST_BASE = [17, 39, 16, 13, 22, 8, 26, 22, 27]
TEST_WITH_VARIANTS = [17, 209, 16, 13, 22, 8, 26, 22, 27]


@pytest.mark.parametrize(
    ("split", "variants", "counts"),
    [
        ("all", False, BASE),
        ("all", True, WITH_VARIANTS),
        ("test", False, TEST_BASE),
        ("test", True, TEST_WITH_VARIANTS),
        ("train", True, [a - b for a, b in zip(WITH_VARIANTS, TEST_WITH_VARIANTS, strict=True)]),
    ],
)
def test_emoji_counts(split, variants, counts) -> None:
    source = Emoji(split=split, variants=variants)
    assert torch.bincount(source.labels()).tolist() == counts
    assert len(source) == sum(counts)
    assert len(source.classes) == len(counts)


@pytest.fixture(scope="module")
def pack() -> dict[str, np.ndarray]:
    with np.load(PACK) as arrays:
        return {name: arrays[name] for name in ("noto", "twemoji", "label")}


def test_emoji_pixels(pack) -> None:
    hashes = {name: hashlib.sha256(pack[name].tobytes()).hexdigest() for name in pack}
    assert hashes["noto"] == "b45d799c9d3b9e19c8607438ac43c360d20ff232d9cd32ee11866af979319dc4"
    assert hashes["twemoji"] == "20f50d5837640097ea8a3c382ccc518f5e16cc5672cbb20ec3b2ba42c4708060"


def test_both_vendors_follow_each_other(pack) -> None:
    source = Emoji("both", split="all")
    each = int((pack["label"] < 9).sum())
    first, last = each - 1, each
    batch = source.__getitems__([0, first, last, 2 * each - 1])
    labeled = {name: pack[name][pack["label"] < 9] for name in ("noto", "twemoji")}
    expected = [
        labeled[v][i] for v, i in [("noto", 0), ("noto", -1), ("twemoji", 0), ("twemoji", -1)]
    ]
    assert np.array_equal(batch["image"].numpy(), np.stack(expected).transpose(0, 3, 1, 2))
    assert batch["label"].tolist() == [0, 8, 0, 8]


def test_smaller_emoji_are_box_means(pack) -> None:
    source = Emoji(split="all", image_size=32)
    noto = pack["noto"]
    small = (noto.reshape(-1, 32, 2, 32, 2, 3).astype(np.uint16).sum((2, 4)) + 2) // 4
    got = source.__getitems__(list(range(len(source))))["image"].numpy()
    assert np.array_equal(got, small[pack["label"] < 9].transpose(0, 3, 1, 2))


def test_gray_emoji_are_pillows_gray(pack) -> None:
    got = Emoji(split="all", channels=1).__getitems__(list(range(0, 3000, 300)))["image"]
    for image, pixels in zip(got, pack["noto"][0:3000:300], strict=True):
        assert np.array_equal(image[0].numpy(), np.asarray(Image.fromarray(pixels).convert("L")))


@pytest.mark.parametrize(
    "options",
    [
        {"vendor": "apple"},
        {"split": "val"},
        {"image_size": 48},
        {"image_size": 128},
        {"image_size": [64, 32]},
        {"channels": 4},
    ],
)
def test_emoji_refuses(options) -> None:
    with pytest.raises(UserError):
        Emoji(**options)


# -- folder: pixels computed by hand ---------------------------------------------------------------


def decode(path: Path, size: tuple[int, int], channels: int, resize: str = "crop") -> np.ndarray:
    return Decoder(size, channels, resize)(path.read_bytes()).numpy()


def flat_image(mode: str, color, side: int = 4) -> Image.Image:
    return Image.new(mode, (side, side), color)


def palette(transparent: bool) -> Image.Image:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([9, 9, 9, 10, 200, 30])
    if transparent:
        image.info["transparency"] = 1
    return image


def sixteen_bits(value: int) -> Image.Image:
    return Image.fromarray(np.full((4, 4), value, np.uint16))


@pytest.mark.parametrize(
    ("image", "suffix", "rgb", "gray"),
    [
        (flat_image("RGB", (255, 0, 100)), "png", (255, 0, 100), 88),  # 76.2 + 11.4
        (flat_image("L", 77), "png", (77, 77, 77), 77),
        (flat_image("1", 1), "png", (255, 255, 255), 255),
        (flat_image("RGBA", (255, 0, 100, 0)), "png", (255, 255, 255), 255),
        (flat_image("RGBA", (255, 0, 100, 255)), "png", (255, 0, 100), 88),
        (flat_image("RGBA", (255, 0, 100, 51)), "png", (255, 204, 224), 222),  # a fifth
        (flat_image("LA", (0, 51)), "png", (204, 204, 204), 204),
        (palette(transparent=False), "png", (10, 200, 30), 124),
        (palette(transparent=True), "png", (255, 255, 255), 255),
        (flat_image("CMYK", (255, 0, 51, 0)), "tif", (0, 255, 204), 173),
        (sixteen_bits(65535), "png", (255, 255, 255), 255),
        (sixteen_bits(257 * 100 + 128), "png", (100, 100, 100), 100),
        (sixteen_bits(257 * 100 + 129), "png", (101, 101, 101), 101),
    ],
)
def test_folder_converts_every_mode(tmp_path, image, suffix, rgb, gray) -> None:
    image.save(tmp_path / f"a.{suffix}")
    color = Folder(str(tmp_path), 4).__getitems__([0])["image"]
    assert color.dtype == torch.uint8
    assert torch.equal(
        color, torch.tensor(rgb, dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    )
    luma = Folder(str(tmp_path), 4, channels=1).__getitems__([0])["image"]
    assert luma.shape == (1, 1, 4, 4)
    assert luma.unique().tolist() == [gray]


def test_folder_turns_by_exif(tmp_path) -> None:
    pixels = np.zeros((2, 4, 3), np.uint8)
    pixels[0, 0] = 255  # top left as stored
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    source = Folder(str(tmp_path), [4, 2])
    image = source.__getitems__([0])["image"][0, 0]
    assert image.nonzero().tolist() == [[0, 1]]  # now top right
    assert source.notes == ["1 of 1 images are turned by their EXIF orientation."]


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize("factor", [1, 2, 3, 4])
def test_reduction_by_a_whole_factor_is_the_mean_over_boxes(tmp_path, factor) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)
    path = save(tmp_path / "a.png", pixels)
    side = 12 // factor
    means = pixels[:, 4:16].reshape(side, factor, side, factor, 3).astype(float).mean((1, 3))
    got = decode(path, (side, side), 3).transpose(1, 2, 0)
    # Pillow multiplies by a fixed-point reciprocal, which is inexact for thirds.
    assert np.abs(got - means).max() <= (0.6 if factor == 3 else 0.5)


@pytest.mark.parametrize("size", [(49, 49), (30, 7), (7, 30), (33, 48)])
def test_crop_keeps_proportions_and_stretch_the_whole(tmp_path, size) -> None:
    # A white frame: cropping cuts two of its sides off, stretching keeps all four.
    pixels = np.full((48, 96), 255, np.uint8)
    pixels[12:-12, 12:-12] = 0
    path = save(tmp_path / "a.png", pixels)
    stretched, cropped = (decode(path, size, 1, how)[0] for how in ("stretch", "crop"))
    sides = [(0, size[1] // 2), (-1, size[1] // 2), (size[0] // 2, 0), (size[0] // 2, -1)]
    assert [int(stretched[at]) > 128 for at in sides] == [True] * 4
    wide = size[1] / size[0] > 2
    assert [int(cropped[at]) > 128 for at in sides] == [not wide, not wide, wide, wide]


def test_large_jpeg_is_close_to_the_plain_way(tmp_path) -> None:
    y, x = np.mgrid[0:512, 0:512]
    pixels = np.stack([x // 2, y // 2, 128 + 100 * np.sin(x / 30)], -1).astype(np.uint8)
    path = tmp_path / "a.jpg"
    Image.fromarray(pixels).save(path, quality=95)
    plain = pixels.reshape(32, 16, 32, 16, 3).mean((1, 3)).transpose(2, 0, 1)
    assert np.abs(decode(path, (32, 32), 3) - plain).mean() < 1.5


def gray(value: int) -> np.ndarray:
    return np.full((4, 4), value, np.uint8)


def test_folder_lists_by_path_and_folders_are_classes(tmp_path) -> None:
    for name, value in [("b/1.png", 3), ("a/2.JPG", 2), ("a/1.png", 1), ("b/deep/0.png", 4)]:
        save(tmp_path / name, gray(value))
    save(tmp_path / ".hidden/1.png", gray(9))
    save(tmp_path / "a/.x.png", gray(9))
    (tmp_path / "list.txt").write_text("a")
    source = Folder(str(tmp_path), 4, channels=1)
    batch = source.__getitems__([0, 1, 2, 3])
    assert batch["image"][:, 0, 0, 0].tolist() == [1, 2, 3, 4]
    assert batch["label"].tolist() == source.labels().tolist() == [0, 0, 1, 1]
    assert source.classes == ["a", "b"]
    assert source.notes == [f"1 files in {tmp_path} are not images and are ignored: .txt."]

    unlabeled = Folder(str(tmp_path), 4, labels=False)
    assert unlabeled.classes is None
    assert unlabeled.__getitems__([0]).keys() == {"image"}

    save(tmp_path / "loose.png", gray(5))
    assert Folder(str(tmp_path), 4).labels() is None
    with pytest.raises(UserError, match=r"loose\.png.*labels=false"):
        Folder(str(tmp_path), 4, labels=True).labels()


def test_folder_says_what_it_converts(tmp_path) -> None:
    flat_image("CMYK", (0, 0, 0, 0)).save(tmp_path / "1.jpg")
    flat_image("RGBA", (0, 0, 0, 0)).save(tmp_path / "2.png")
    flat_image("RGB", (0, 0, 0), side=9).save(tmp_path / "3.png")
    flat_image("RGB", (0, 0, 0), side=3).save(tmp_path / "4.png")
    two = [flat_image("RGB", (0, 0, 0)), flat_image("RGB", (9, 9, 9))]
    two[0].save(tmp_path / "5.tif", save_all=True, append_images=two[1:])
    assert Folder(str(tmp_path), 4).notes == [
        "1 of 5 images are CMYK: converted to RGB.",
        "1 of 5 images are RGBA: converted to RGB.",
        "1 of 5 images have transparency: laid on white.",
        "1 of 5 images have several frames: the first is used.",
        "2 of 5 images are not 4x4: cropped at the center and resized.",
        "1 of 5 images are smaller than 4x4: enlarged.",
    ]


def test_folder_names_what_cannot_be_read(tmp_path) -> None:
    save(tmp_path / "1.png", gray(0))
    (tmp_path / "2.png").write_text("not an image")
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "3.tif")
    with pytest.raises(
        UserError, match=r"2 of 3 .*\(2\.png, 3\.tif; the first one: it is not an image"
    ):
        _ = Folder(str(tmp_path), 4).notes


def test_folder_names_a_damaged_image_when_it_is_shown(tmp_path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    path = save(tmp_path / "cut.png", noise)
    path.write_bytes(path.read_bytes()[:5000])
    source = Folder(str(tmp_path), 64)
    assert source.notes == []  # the header is whole
    with pytest.raises(UserError, match=r"cut\.png cannot be read"):
        source.__getitems__([0])


def test_folder_missing_or_empty(tmp_path) -> None:
    with pytest.raises(UserError, match=r"There is no folder, zip or tar .*nowhere"):
        len(Folder(str(tmp_path / "nowhere"), 4))
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(UserError, match=r"no images \(\.avif, .*\.png"):
        len(Folder(str(tmp_path), 4))
    with pytest.raises(UserError, match="resize"):
        Folder(str(tmp_path), 4, resize="fit")


# -- Fashion-MNIST ---------------------------------------------------------------------------------

FASHION = np.random.default_rng(0).integers(0, 256, (5, 28, 28), np.uint8)
LABELS = np.array([9, 0, 3, 3, 1], np.uint8)


def write_fashion(folder: Path, packed: bool = False, prefix: str = "train") -> None:
    """The files of the data set, with five images of noise."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind, array in [("images-idx3", FASHION), ("labels-idx1", LABELS)]:
        header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
        name = folder / f"{prefix}-{kind}-ubyte"
        if packed:
            with gzip.open(f"{name}.gz", "wb") as file:
                file.write(header + array.tobytes())
        else:
            name.write_bytes(header + array.tobytes())


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


DEBIAN = Path("/usr/share/datasets/fashion-mnist")


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_fashion_mnist_of_debian() -> None:
    source = FashionMNIST(str(DEBIAN), "test")
    assert torch.bincount(source.labels()).tolist() == [1000] * 10
    assert source.__getitems__([0, 9999])["image"].shape == (2, 1, 32, 32)
    assert (
        source.classes[int(source.labels()[0])] == "Ankle boot"
    )  # the data set's first test image


# -- configs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["emoji", "fashion_mnist", "folder", "synthetic"])
@pytest.mark.parametrize("channels", [1, 3])
def test_configs_deliver_what_the_top_level_asks_for(name, channels, tmp_path) -> None:
    overrides = [f"data={name}", f"channels={channels}", "batch_size=4", "seed=7"]
    if name == "fashion_mnist":
        write_fashion(tmp_path)
        overrides.append(f"data.root={tmp_path}")
    if name == "folder":
        save(tmp_path / "a.png", gray(0))
        overrides.append(f"data.root={tmp_path}")
    data = make(config(*overrides, tiny=False).data)
    assert isinstance(data, ImageData)
    assert (data.image_size, data.batch_size, data.seed) == ((32, 32), 4, 7)
    assert data.source.shape == (channels, 32, 32)
    assert data.source.__getitems__([0])["image"].shape == (1, channels, 32, 32)


# -- CIFAR-10 --------------------------------------------------------------------------------------


def write_cifar10(root: Path, monkeypatch) -> np.ndarray:
    """The files as the archive unpacks, two images in each; returns the pixels of one file."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3072), dtype=np.uint8)
    reader = torchvision.datasets.CIFAR10
    lists = {"train_list": [f"data_batch_{i}" for i in range(1, 6)], "test_list": ["test_batch"]}
    for key, names in lists.items():
        for name in names:
            (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": [3, 7]}))
        # the published checksums are those of the whole files
        monkeypatch.setattr(reader, key, [[name, None] for name in names])
    classes = [str(i) for i in range(10)]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": classes}))
    meta = {"filename": "batches.meta", "key": "label_names", "md5": None}
    monkeypatch.setattr(reader, "meta", meta)
    return pixels


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


# -- held-out images -------------------------------------------------------------------------------

TESTS = {"imagenet": "val", "lsun": "val"}  # what the held-out split is called
UNUSUAL = {
    "emoji": {"variants": False, "image_size": 32, "channels": 1, "vendor": "both"},
    "fashion_mnist": {"pad": 0, "channels": 3},
    "mnist_rgb": {"pad": 0, "num": 100, "seed": 1},
    "celeba": {"held_out": 0.2, "crop": "center108", "attributes": ["Male"], "filter": "bilinear"},
    "folder": {"held_out": 0.2, "labels": True, "resize": "none", "filter": "bilinear"},
    "huggingface": {"held_out": 0.2, "config": "c", "image": "i", "label": "l", "data_files": "f"},
    "imagenet": {"resize": "stretch", "filter": "bicubic"},
    "lsun": {"category": ["bedroom", "kitchen"], "resize": "stretch", "filter": "bilinear"},
    "pack": {"held_out": 0.2},
}


@pytest.mark.parametrize(
    "data",
    ["celeba", "celeba_hq", "cifar10", "emoji", "fashion_mnist", "folder", "huggingface",
     "imagenet", "lsun", "mnist", "mnist_rgb", "pack"],
)  # fmt: skip
def test_held_out_images_are_read_like_those_of_training(data) -> None:
    node = config(f"data={data}", tiny=False).data.source
    node.update({key: "x" for key in ("root", "path") if key in node.keys()})  # noqa: SIM118
    node.update({"held_out": 0.1} if "held_out" in node else {})
    node.update(UNUSUAL.get(data, {}))

    def facts(source) -> dict:
        of = {k: v for k, v in vars(source).items() if k not in ("download", "unpack")}
        return of | ({"digits": facts(of["digits"])} if "digits" in of else {})

    expected = make({**node, "split": TESTS.get(data, "test")})
    source = make({**node, "split": "train"})
    assert facts(source.held_out()) == facts(expected)
    with pytest.raises(UserError, match="held out"):
        expected.held_out()


def test_held_out_images_of_some_classes() -> None:
    data = ImageData(Emoji(), 64, 3, 8, seed=0, only=["Flags", "Objects"], subset=10)
    assert list(data.domains) == [""]
    test = data.held_out()[""]
    labels = Emoji(split="test").labels()
    assert torch.bincount(test.source.labels()).tolist() == [(labels == n).sum() for n in (8, 6)]
    assert test.source.split == "test"
    assert (test.image_size, test.mirror) == (data.image_size, data.mirror)
