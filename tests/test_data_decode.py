"""One decoder for all formats: pixels against Pillow, numpy and sums made by hand."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from makers.photos import crops
from PIL import Image, ImageOps

from ganzoo.data.decode import Box, Decoder, Header, resample
from ganzoo.data.sources.celeba import CROPS


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def array_file(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def pixels_of(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


# -- what is decoded -------------------------------------------------------------------------------


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_decodes_to_pillows_pixels(subsampling, progressive) -> None:
    for photo in crops(3):
        data = encoded(photo, "JPEG", quality=88, subsampling=subsampling, progressive=progressive)
        expected = pixels_of(Image.open(io.BytesIO(data)))
        assert torch.equal(Decoder((218, 178))(data), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_exif_orientation_as_pillow_turns(orientation, kind) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(crops(1, 40, 60)[0], kind, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    size = upright.height, upright.width
    assert torch.equal(Decoder(size)(data), pixels_of(upright))
    header = Decoder(size).header(io.BytesIO(data))
    assert header == Header("RGB", size, turned=orientation > 1)


@pytest.mark.parametrize("damage", [b"II*\0\xff\xff\xff\x7f broken", b"no EXIF data at all"])
def test_broken_exif_is_shown_as_stored_and_said(damage) -> None:
    photo = crops(1, 32, 32)[0]
    data = encoded(photo, "JPEG", exif=b"Exif\0\0" + damage)
    decoder = Decoder((32, 32))
    assert torch.equal(decoder(data), pixels_of(Image.open(io.BytesIO(data))))
    header = decoder.header(io.BytesIO(data))
    assert header.broken_exif
    assert decoder.notes([header], 1) == [
        "1 of 1 images have damaged EXIF data, so their orientation may be wrong."
    ]


def test_truncated_jpeg_is_refused_wherever_it_is_cut() -> None:
    data = encoded(crops(1)[0], "JPEG")
    for length in (len(data) // 3, len(data) - 40, len(data) - 2):
        with pytest.raises(Exception, match=r"(?i)truncated|incomplete|data"):
            Decoder((64, 64))(data[:length])


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_gray(kind) -> None:
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    data = encoded(Image.fromarray(values), kind)
    got = Decoder((8, 8), channels=1)(data)
    assert np.array_equal(got[0].numpy(), np.round(values / 257).astype(np.uint8))


def test_sixteen_bit_color_keeps_its_high_bytes() -> None:
    values = (np.arange(8 * 8 * 3).reshape(8, 8, 3) * 337).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    got = Decoder((8, 8))(data).permute(1, 2, 0).numpy()
    assert np.array_equal(got, (values >> 8).astype(np.uint8))


def test_opacity_is_kept_where_there_is_a_channel_for_it() -> None:
    image = Image.new("RGBA", (4, 4), (255, 0, 100, 51))
    rgba = Decoder((4, 4), channels=4)
    assert rgba(encoded(image, "PNG"))[:, 0, 0].tolist() == [255, 0, 100, 51]
    opaque = encoded(Image.new("RGB", (4, 4), (1, 2, 3)), "PNG")
    assert rgba(opaque)[:, 0, 0].tolist() == [1, 2, 3, 255]
    gray = Decoder((4, 4), channels=2)
    assert gray(encoded(Image.new("LA", (4, 4), (7, 9)), "PNG"))[:, 0, 0].tolist() == [7, 9]


# -- arrays ----------------------------------------------------------------------------------------

SIX = np.random.default_rng(0).integers(0, 256, (6, 8, 10), np.uint8)


@pytest.mark.parametrize("array", [SIX, SIX.transpose(1, 2, 0)])
def test_arrays_with_channels_first_or_last(array) -> None:
    decoder = Decoder((8, 10), channels=6)
    assert np.array_equal(decoder(array_file(array)).numpy(), SIX)
    assert decoder.header(io.BytesIO(array_file(array))) == Header(
        "array uint8 6 channels", (8, 10)
    )


@pytest.mark.parametrize(
    "array",
    [
        SIX.astype(np.uint16) * 257,
        SIX / 255,
        (SIX / 255).astype(np.float32),
        np.where(SIX > 127, 1, 0).astype(bool),
    ],
)
def test_arrays_of_other_types(array) -> None:
    expected = np.where(SIX > 127, 255, 0) if array.dtype == bool else SIX
    assert np.array_equal(Decoder((8, 10), channels=6)(array_file(array)).numpy(), expected)


def test_arrays_are_resized_channel_by_channel_like_pictures() -> None:
    photo = crops(1, 90, 70)[0]
    array = np.array(photo)
    for size in [(35, 45), (33, 41)]:
        decoder = Decoder(size)
        assert torch.equal(decoder(array_file(array)), decoder(encoded(photo, "PNG")))
    six = np.concatenate([array, array[..., ::-1]], -1)
    got = Decoder((33, 41), channels=6)(array_file(six))
    assert torch.equal(got[:3], got[3:].flip(0))


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (SIX[:5], r"shape \[5, 8, 10\], but channels is 6"),
        (SIX.astype(np.int32), "array of int32"),
        (SIX * 1.0, r"floats from 0 to 255, which must be in \[0, 1\]"),
        (np.full((6, 4, 4), np.nan), "floats from nan"),
        (np.array([{}], dtype=object), "pickle"),
        (np.zeros((6, 0, 4), np.uint8), "shape"),
    ],
)
def test_arrays_that_are_refused(array, says) -> None:
    with pytest.raises(ValueError, match=says):
        Decoder((8, 10), channels=6)(array_file(array))


def test_pictures_have_no_six_channels() -> None:
    data = encoded(Image.new("RGB", (4, 4)), "PNG")
    with pytest.raises(ValueError, match=r"at most 4 channels; 6 channels need"):
        Decoder((4, 4), channels=6)(data)
    with pytest.raises(ValueError, match=r"at most 4 channels; 6 channels need"):
        Decoder((4, 4), channels=6).header(io.BytesIO(data))


# -- sizes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "resampling"),
    [("bicubic", Image.Resampling.BICUBIC), ("bilinear", Image.Resampling.BILINEAR)],
)
@pytest.mark.parametrize("size", [(64, 64), (100, 80), (300, 300)])
def test_filters_are_pillows(name, resampling, size) -> None:
    for photo in crops(3):
        expected = np.array(photo.resize(size[::-1], resampling)).astype(int)
        got = resample(pixels_of(photo), size, name).permute(1, 2, 0).numpy()
        assert np.abs(got - expected).max() <= 2  # both work with rounded weights
        assert np.abs(got - expected).mean() < 0.3


@pytest.mark.parametrize("size", [(8, 8), (10, 9), (30, 30), (1, 1), (22, 5)])
def test_area_is_the_mean_over_the_area_of_a_pixel(size) -> None:
    pixels = pixels_of(crops(1, 14, 22)[0])
    height, width = size
    # Every pixel repeated so often that the areas are whole: then the mean is one over boxes.
    fine = pixels.double().repeat_interleave(height, 1).repeat_interleave(width, 2)
    boxes = fine.view(3, height, 22, width, 14)
    expected = boxes.mean((2, 4))
    got = resample(pixels, size, "area").double()
    assert (got - expected).abs().max() <= 0.5 + 1e-6


@pytest.mark.parametrize("filter", ["bicubic", "bilinear", "area"])
def test_extreme_reductions_keep_constants_and_means(filter) -> None:
    assert (resample(torch.full((1, 3, 20000), 77, dtype=torch.uint8), (2, 7), filter) == 77).all()
    wide = torch.arange(20001, dtype=torch.float64).mul(255 / 20000).round().to(torch.uint8)
    got = resample(wide.expand(1, 2, -1), (2, 64), filter).double()
    assert abs(float(got.mean()) - 127.5) < 0.5
    assert (got[0, 0].diff() >= 3).all()
    assert resample(torch.full((3, 1, 1), 9, dtype=torch.uint8), (8, 8), filter).unique() == 9


@pytest.mark.parametrize("crop", list(CROPS))
def test_crops_of_celeba(crop) -> None:
    """The published rows and columns: PGGAN's 57:185 and 25:153, the others centered."""
    data = encoded(crops(1)[0], "JPEG")
    whole = np.array(Image.open(io.BytesIO(data)))
    if crop == "cx89cy121-128":
        window = whole[57:185, 25:153]
    elif crop == "resize":
        window = whole
    else:
        side = int(crop.removeprefix("center"))
        top, left = (218 - side) // 2, (178 - side) // 2
        window = whole[top : top + side, left : left + side]
    decoder = Decoder(window.shape[:2], box=CROPS[crop])
    assert np.array_equal(decoder(data).permute(1, 2, 0).numpy(), window)


def test_a_box_is_of_images_of_one_size() -> None:
    decoder = Decoder((4, 4), box=Box((218, 178), 57, 25, 128, 128))
    with pytest.raises(ValueError, match="it is 8x8, not 218x178"):
        decoder(encoded(Image.new("RGB", (8, 8)), "PNG"))


# -- what files say of themselves ------------------------------------------------------------------


def gray_tiff(values: bytes, bits: int, photometric: int = 1, signed: bool = False) -> bytes:
    """A little-endian TIFF of 8x8 gray pixels."""
    tags = [(256, 8), (257, 8), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1)]
    tags += [(278, 8), (279, len(values)), (339, 2 if signed else 1)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    start = struct.pack("<I", 8 + len(values))
    return b"II*\0" + start + values + struct.pack("<H", len(tags)) + entries + bytes(4)


RAMP = np.linspace(0, 1, 64)


def test_gray_tiffs_of_12_and_16_bits() -> None:
    expected = np.round(RAMP * 255).reshape(8, 8)
    twelve = np.round(RAMP * 4095).astype(int)
    packed = b"".join(
        bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255])
        for a, b in zip(twelve[::2], twelve[1::2], strict=True)
    )
    sixteen = np.round(RAMP * 65535).astype("<u2")
    for data in (
        gray_tiff(packed, 12),
        gray_tiff(sixteen.tobytes(), 16),
        gray_tiff((65535 - sixteen).tobytes(), 16, photometric=0),  # white is zero
    ):
        got = Decoder((8, 8), channels=1)(data)[0].numpy()
        assert np.abs(got - expected).max() <= 1


@pytest.mark.parametrize(("kind", "bits", "signed"), [("<u4", 32, False), ("<i2", 16, True)])
def test_gray_of_unknown_range_is_refused(kind, bits, signed) -> None:
    data = gray_tiff(np.round(RAMP * 255).astype(kind).tobytes(), bits, signed=signed)
    with pytest.raises(ValueError, match="no fixed range"):
        Decoder((8, 8), channels=1)(data)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_once(orientation) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(crops(1, 40, 60)[0], "TIFF", exif=exif)
    upright = Image.open(io.BytesIO(data))
    expected = pixels_of(upright)
    assert torch.equal(Decoder(tuple(expected.shape[1:]))(data), expected)


def test_a_transparent_gray_of_sixteen_bits_lies_on_white() -> None:
    values = np.full((8, 8), 30000, np.uint16)
    values[:4] = 0
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG", transparency=0)
    got = Decoder((8, 8))(file.getvalue())
    assert (got[:, :4] == 255).all()
    assert (got[:, 4:] == round(30000 / 257)).all()


def test_postscript_never_reaches_another_program(monkeypatch) -> None:
    from PIL import EpsImagePlugin

    def called(*args, **options) -> None:
        pytest.fail("Ghostscript was asked")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", called)
    data = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n%%EOF\n"
    for read in (Decoder((8, 8)), lambda data: Decoder((8, 8)).header(io.BytesIO(data))):
        with pytest.raises(OSError, match="cannot identify"):
            read(data)
