"""Folders of images: pixels computed by hand, order, classes, notes, what cannot be read."""

from pathlib import Path

import numpy as np
import pytest
import torch
from makers.files import gray, save
from PIL import Image

from ganzoo.data.decode import Decoder
from ganzoo.data.sources.folder import Folder
from ganzoo.errors import UserError


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
