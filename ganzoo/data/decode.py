"""Decoding one image file of any format to uint8 of one size and number of channels."""

import io
import math
import warnings
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from threading import Lock
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import ExifTags, Image, TiffImagePlugin
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

with suppress(ImportError):  # makes Pillow read iPhones' photographs, if it is installed
    import pillow_heif

    pillow_heif.register_heif_opener()

Image.init()
# Nothing else is opened: Pillow would hand PostScript, for example, to another program.
FORMATS: list[str] = [
    name
    for name in ("JPEG", "PNG", "GIF", "BMP", "PPM", "TIFF", "WEBP", "AVIF", "JPEG2000", "HEIF")
    if name in Image.OPEN  # some depend on how Pillow was built
]
EXTENSIONS = [
    *([".avif"] if "AVIF" in FORMATS else []), ".bmp", ".gif",
    *([".heic", ".heif"] if "HEIF" in FORMATS else []), ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg",
    ".npy", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp",
]  # fmt: skip
# Pictures all the same, which are not read.
UNREAD = {
    ".arw", ".avif", ".cr2", ".cr3", ".dng", ".eps", ".exr", ".hdr", ".heic", ".heif", ".ico",
    ".j2k", ".jxl", ".nef", ".orf", ".pbm", ".pnm", ".psd", ".raf", ".rw2", ".svg", ".tga",
}.difference(EXTENSIONS)  # fmt: skip
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # Pillow's mode for a number of channels
GOALS = {1: "gray", 2: "gray and opacity", 3: "RGB", 4: "RGBA"}
FILTERS = ["bicubic", "bilinear", "area"]
RESIZES = ["crop", "stretch", "width", "none"]
NPY = b"\x93NUMPY"
EXIF_KEYS = {"exif", "xmp", "XML:com.adobe.xmp"}  # Pillow's info has one if there may be EXIF

_WARNINGS = Lock()  # filters of warnings are global, and threads decode in parallel


def extension(name: str) -> str:
    """The extension of a file, in lower case."""
    return PurePosixPath(name).suffix.lower()


def images_among(names: Sequence[str]) -> list[str]:
    """The names that have the extension of an image."""
    return [name for name in names if extension(name) in EXTENSIONS]


class Box(NamedTuple):
    """A part of images that all have the same size, in pixels."""

    of: tuple[int, int]  # height and width of the images
    top: int
    left: int
    height: int
    width: int


class Header(NamedTuple):
    """Facts about an image file that are known before its pixels are decoded."""

    mode: str  # Pillow's, or "array uint16 6 channels"
    size: tuple[int, int]  # height and width after EXIF orientation
    transparent: bool = False
    turned: bool = False
    frames: bool = False
    broken_exif: bool = False


@dataclass(frozen=True)
class Decoder:
    """Bytes of an image file -> uint8 [channels, *size], or larger if `resize` allows it.

    EXIF orientation is applied, transparency is laid on white (kept with 2 or 4 channels), and gray
    of up to 16 bits is divided by its largest value / 255. 16-bit color is reduced to its high
    bytes, color profiles are not applied, and the first frame of an animation is used. Arrays
    (.npy) are [H, W], [H, W, C] or [C, H, W], of uint8, uint16 (divided by 257), bool, or floats in
    [0, 1].
    """

    size: tuple[int, int]  # height and width to deliver
    # 1 for luminance (ITU-R 601), 2 for luminance and opacity, 3 for RGB, 4 for RGB and opacity;
    # any other number only for arrays with that many channels.
    channels: int = 3
    # "crop" uses the largest centered window with the right proportions, "stretch" the full image.
    # "width" resizes the full image to the width of `size`, keeps its proportions, but makes it at
    # least as high; "none" keeps the size, but enlarges smaller images.
    resize: str = "crop"
    # "bicubic" or "bilinear", both antialiased, or "area", the mean over the area of each new
    # pixel. Reduction by a whole factor always uses this mean.
    filter: str = "bicubic"
    box: Box | None = None  # the part that is cut out at first, of images of the size in it

    def __call__(self, data: bytes) -> Tensor:
        """Raises ValueError for images that are not supported, and any error of the decoders."""
        pixels = self._array(data) if data.startswith(NPY) else self._picture(data)
        if self.box is not None:
            if tuple(pixels.shape[1:]) != self.box.of:
                raise ValueError(f"it is {_by(pixels.shape[1:])}, not {_by(self.box.of)}")
            _, top, left, height, width = self.box
            pixels = pixels[:, top : top + height, left : left + width]
        if self.resize == "crop":
            pixels = center(pixels, self.size)
        return resample(pixels, self._goal(pixels.shape[1], pixels.shape[2]), self.filter)

    def header(self, file: BinaryIO) -> Header:
        """Facts about the image in `file`. Raises the same errors as `__call__`."""
        start = file.read(len(NPY))
        file.seek(0)
        if start == NPY:
            array = _load(file.read())
            planes = _planes(array, self.channels)
            return Header(f"array {array.dtype} {len(planes)} channels", planes.shape[1:])
        with opened(file) as image:
            self._check(image)
            orientation, broken_exif = _orientation(image)
            height, width = image.height, image.width
            return Header(
                image.mode,
                (width, height) if orientation >= 5 else (height, width),
                image.has_transparency_data,
                orientation > 1,
                getattr(image, "n_frames", 1) > 1,
                broken_exif,
            )

    def notes(self, headers: Sequence[Header], total: int) -> list[str]:
        """Sentences on conversions, from the headers of some or all of `total` images."""
        goal = GOALS.get(self.channels, f"{self.channels} channels")
        native = (MODES.get(self.channels), f"array uint8 {self.channels} channels")
        how = {
            "crop": "cropped at the center and resized",
            "stretch": "resized",
            "width": "resized to that width",
            "none": "larger images are cropped",
        }[self.resize]
        height, width = self.box.of if self.box is not None else self.size
        modes = Counter(header.mode for header in headers if header.mode not in native)
        below = [h.size[0] < height or h.size[1] < width for h in headers]
        counts = {
            **{f"are {mode}: converted to {goal}": n for mode, n in sorted(modes.items())},
            "have transparency: laid on white": sum(header.transparent for header in headers),
            "are turned by their EXIF orientation": sum(header.turned for header in headers),
            "have damaged EXIF data, so their orientation may be wrong": sum(
                header.broken_exif for header in headers
            ),
            "have several frames: the first is used": sum(header.frames for header in headers),
            f"are not {height}x{width}: {how}": sum(h.size != (height, width) for h in headers),
            f"are smaller than {height}x{width}: enlarged": sum(below),
        }
        if self.channels in (2, 4):
            del counts["have transparency: laid on white"]
        seen = f"{len(headers)} images"
        if len(headers) < total:
            seen = f"{len(headers)} inspected images (of {total})"
        return [f"{count} of {seen} {what}." for what, count in counts.items() if count]

    def _goal(self, height: int, width: int) -> tuple[int, int]:
        """Height and width to which an image of this size is resized."""
        least_height, least_width = self.size
        if self.resize == "width":
            return max(least_height, least_width * height // width), least_width
        if self.resize == "none":
            scale = max(1, least_height / height, least_width / width)
            return max(least_height, round(height * scale)), max(least_width, round(width * scale))
        return self.size

    def _array(self, data: bytes) -> Tensor:
        planes = _eight_bits(_planes(_load(data), self.channels))
        return torch.from_numpy(np.ascontiguousarray(planes))

    def _picture(self, data: bytes) -> Tensor:
        with opened(io.BytesIO(data)) as image:
            self._check(image)
            orientation, _ = _orientation(image)
            stored = image.size
            if self.box is None and self.resize != "none":
                # JPEG can be decoded at a half, quarter or eighth of its size, which is faster.
                # Twice the goal remains, so that the resizing filter decides how it looks.
                image.draft(None, (2 * max(self.size),) * 2)
            plain = (image.format, image.mode, image.size) == ("JPEG", "RGB", stored)
            if plain and self.channels == 3:  # faster, same pixels as Pillow's
                return _upright(_jpeg(data), orientation)
            flat = _flat(image, keep_alpha=self.channels in (2, 4))
            array = np.array(flat.convert(MODES[self.channels]))
        pixels = torch.from_numpy(array)
        pixels = pixels[None] if array.ndim == 2 else pixels.permute(2, 0, 1)
        return _upright(pixels, orientation)

    def _check(self, image: Image.Image) -> None:
        if self.channels not in MODES:
            raise ValueError(
                f"pictures have at most 4 channels; {self.channels} channels need .npy arrays"
            )
        if image.mode == "F":
            raise ValueError("floating point pixels have no fixed range")
        if image.mode == "I" and image.format == "TIFF":
            raise ValueError("32-bit or signed pixels have no fixed range")


def center(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """The largest window in the middle of [C, H, W] with the proportions of `size`."""
    height, width = pixels.shape[1:]
    window_height = min(height, max(1, round(width * size[0] / size[1])))
    window_width = min(width, max(1, round(height * size[1] / size[0])))
    top, left = (height - window_height) // 2, (width - window_width) // 2
    return pixels[:, top : top + window_height, left : left + window_width]


def resample(pixels: Tensor, size: tuple[int, int], filter: str = "bicubic") -> Tensor:
    """Resize uint8 [C, H, W] to uint8 [C, *size], contiguous; see `Decoder`."""
    height, width = pixels.shape[1:]
    if (height, width) == size:
        return pixels.contiguous()
    if height % size[0] == 0 and width % size[1] == 0:
        boxes = (height // size[0], width // size[1])
        return F.avg_pool2d(pixels.float(), boxes).round_().to(torch.uint8).contiguous()
    if filter == "area":
        means = _area(_area(pixels.double(), size[1]).mT, size[0]).mT
        return means.round_().clamp_(0, 255).to(torch.uint8).contiguous()
    resized = F.interpolate(pixels[None], size, mode=filter, antialias=True)
    return resized[0].contiguous()


def _area(rows: Tensor, count: int) -> Tensor:
    """Means over `count` equal parts of the last dimension, which may divide pixels."""
    length = rows.shape[-1]
    # The integral of the row up to each edge of a part is linear within a pixel.
    integral = F.pad(rows.cumsum(-1), (1, 0))
    edges = torch.arange(count + 1, dtype=rows.dtype) * length / count
    left = edges.long().clamp_(max=length - 1)
    upto = torch.lerp(integral[..., left], integral[..., left + 1], edges - left)
    return upto.diff(dim=-1) * count / length


def _jpeg(data: bytes) -> Tensor:
    try:
        return decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
    except RuntimeError as error:
        said = str(error).rpartition(", ")[2]  # after the place in torchvision's source
        raise ValueError(said or "it is damaged") from error


def _upright(pixels: Tensor, orientation: int) -> Tensor:
    """[C, H, W] turned upright by its EXIF orientation (EXIF 2.3, tag 0x0112)."""
    if orientation >= 5:
        pixels = pixels.mT
    sides = {2: (-1,), 3: (-1, -2), 4: (-2,), 6: (-1,), 7: (-1, -2), 8: (-2,)}.get(orientation)
    return pixels.flip(sides) if sides else pixels


def _flat(image: Image.Image, keep_alpha: bool) -> Image.Image:
    """In 8 bits, in any color mode, and with transparency laid on white unless it is kept."""
    if image.mode.startswith("I"):
        image = _gray(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if not keep_alpha:
            return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image


def _gray(image: Image.Image) -> Image.Image:
    """Gray of 9 to 16 bits in 8 bits; with opacity if one gray value stands for transparent."""
    pixels = np.asarray(image).astype(np.int64)
    most, clear = 65535, image.info.get("transparency")
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        most = 2 ** image.tag_v2[TiffImagePlugin.BITSPERSAMPLE][0] - 1
        if image.tag_v2[TiffImagePlugin.PHOTOMETRIC_INTERPRETATION] == 0:  # white is zero
            pixels = most - pixels
    if pixels.min() < 0 or pixels.max() > most:
        raise ValueError(f"pixels from {pixels.min()} to {pixels.max()}")
    gray = Image.fromarray(((2 * 255 * pixels + most) // (2 * most)).astype(np.uint8))
    if clear is not None:
        gray.putalpha(Image.fromarray(np.where(pixels == clear, 0, 255).astype(np.uint8)))
    return gray


def opened(file: BinaryIO) -> Image.Image:
    """`Image.open` for `FORMATS`, without warnings on damaged EXIF data and on size."""
    with _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Image.open(file, formats=FORMATS)


def _orientation(image: Image.Image) -> tuple[int, bool]:
    """1 to 8 as in EXIF, and whether the EXIF data are broken."""
    if image.format == "TIFF":
        return 1, False  # Pillow turns these by itself
    if image.format in ("JPEG", "PNG") and not EXIF_KEYS & image.info.keys():
        return 1, False  # getexif would decode all pixels of a PNG
    exif = Image.Exif()
    try:
        with _WARNINGS, warnings.catch_warnings(record=True) as damage:
            warnings.simplefilter("always")  # Pillow only warns of most damage
            if "exif" in image.info:
                exif.load(image.info["exif"])  # image.getexif() would hide damage found earlier
            else:
                exif = image.getexif()
            orientation = exif.get(ExifTags.Base.Orientation, 1)
    except Exception:  # Pillow's parser raises many types
        return 1, True
    if orientation not in range(1, 9):
        return 1, orientation != 0  # some cameras write 0 for unknown
    return orientation, bool(damage)


def _load(data: bytes) -> np.ndarray:
    return np.load(io.BytesIO(data), allow_pickle=False)


def _planes(array: np.ndarray, channels: int) -> np.ndarray:
    """[C, H, W] from [H, W], [H, W, C] or [C, H, W]."""
    if array.ndim == 2:
        array = array[None]
    elif array.ndim == 3 and array.shape[2] == channels:
        array = array.transpose(2, 0, 1)
    if array.ndim != 3 or array.shape[0] != channels or 0 in array.shape:
        raise ValueError(f"an array of shape {list(array.shape)}, but channels is {channels}")
    return array


def _eight_bits(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255
    if array.dtype == np.uint16:
        return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if np.issubdtype(array.dtype, np.floating):
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 1 and math.isfinite(low + high)):
            raise ValueError(f"floats from {low:g} to {high:g}, which must be in [0, 1]")
        return (array * 255).round().astype(np.uint8)
    raise ValueError(f"an array of {array.dtype}, which must be uint8, uint16, bool or floats")


def _by(size: Sequence[int]) -> str:
    return f"{size[0]}x{size[1]}"
