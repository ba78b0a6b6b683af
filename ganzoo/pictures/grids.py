"""Images side by side, as one picture."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ganzoo.data.pixels import to_uint8
from ganzoo.pictures.fonts import font_of

GAP = 2  # pixels between tiles


def columns_for(num: int) -> int:
    """Number of columns of a grid of `num` tiles: almost square, and wide rather than high."""
    return max(1, int(np.ceil(np.sqrt(num))))


def grid(images: Tensor, columns: int | None = None) -> Image.Image:
    """Images float [N, C, H, W] in [-1, 1] as one picture, row by row, on white.

    One channel is shown as gray, four as red, green, blue and opacity. Of two channels the first is
    shown, of five or more the first three.
    """
    tiles = _tiles(images)
    n, h, w, c = tiles.shape
    columns = min(columns or columns_for(n), n)
    rows = -(-n // columns)
    canvas = np.full((rows * (h + GAP) - GAP, columns * (w + GAP) - GAP, c), 255, np.uint8)
    for i, tile in enumerate(tiles):
        y, x = i // columns * (h + GAP), i % columns * (w + GAP)
        canvas[y : y + h, x : x + w] = tile
    return Image.fromarray(canvas.squeeze(2) if c == 1 else canvas)


def enlarged(images: Tensor, scale: int) -> Tensor:
    """Images [..., H, W] with each pixel repeated to a square of `scale` x `scale`."""
    return images.repeat_interleave(scale, -2).repeat_interleave(scale, -1)


def singles(images: Tensor) -> list[Image.Image]:
    """Images float [N, C, H, W] in [-1, 1], each as its own picture."""
    return [Image.fromarray(t.squeeze(2) if t.shape[2] == 1 else t) for t in _tiles(images)]


def named_rows(rows: Mapping[str, Tensor]) -> Image.Image:
    """A row of images float [N, C, H, W] in [-1, 1] for each name, with the name to its left."""
    strips = [grid(images, len(images)) for images in rows.values()]
    font, margin = font_of(11), margin_of(rows)
    width, height = max(strip.width for strip in strips), strips[0].height
    sheet = Image.new("RGB", (margin + width, (height + GAP) * len(rows) - GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (name, strip) in enumerate(zip(rows, strips, strict=True)):
        top = row * (height + GAP)
        sheet.paste(strip, (margin, top), strip if strip.mode == "RGBA" else None)
        draw.text((4, top + height // 2), name, fill="black", font=font, anchor="lm")
    return sheet


def margin_of(names: Iterable[str]) -> int:
    """Width in pixels that `named_rows` leaves for names."""
    return 10 + int(max(font_of(11).getlength(name) for name in names))


def titled_rows(rows: Mapping[str, tuple[Tensor, Sequence[str]]]) -> Image.Image:
    """A row for each name: images float [N, C, H, W] in [-1, 1], each with its title above.

    Images are enlarged to a width of at least 64 pixels, so that there is room for the titles, and
    shrunk to at most 128.
    """
    font = font_of(11)
    above = 16 * max(title.count("\n") + 1 for _, titles in rows.values() for title in titles)
    margin = margin_of(rows)
    height, width = next(iter(rows.values()))[0].shape[-2:]
    scale = max(1, -(-64 // width)) if width <= 128 else 128 / width
    height, width = round(scale * height), round(scale * width)
    resampling = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX
    columns = max(len(titles) for _, titles in rows.values())
    size = margin + columns * (width + GAP), len(rows) * (above + height + GAP)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for row, (name, (images, titles)) in enumerate(rows.items()):
        top = row * (above + height + GAP) + above
        draw.text((4, top + height // 2), name, fill="black", font=font, anchor="lm")
        for column, (tile, title) in enumerate(zip(singles(images), titles, strict=True)):
            left = margin + column * (width + GAP)
            shown = tile.convert("RGB").resize((width, height), resampling)
            sheet.paste(shown, (left, top))
            draw.text((left, top - above), title, fill="black", font=font, spacing=2)
    return sheet


def progress_strip(
    rows: Sequence[tuple[str, Image.Image]], tile: tuple[int, int], tiles: int = 10
) -> Image.Image:
    """The first row of each of several grids, one below the other, with its name to the left.

    A row shows at most `tiles` images, each of the height and width `tile`.
    """
    h, w = tile
    tiles = min([tiles, *((picture.width + GAP) // (w + GAP) for _, picture in rows)])
    margin, scale = 80, max(1, -(-48 // h))  # small images are enlarged
    strip_w, strip_h = (tiles * (w + GAP) - GAP) * scale, h * scale
    sheet = Image.new("RGB", (margin + strip_w, (strip_h + GAP) * len(rows)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (name, picture) in enumerate(rows):
        strip = picture.convert("RGB").crop((0, 0, tiles * (w + GAP) - GAP, h))
        strip = strip.resize((strip_w, strip_h), Image.Resampling.NEAREST)
        top = row * (strip_h + GAP)
        sheet.paste(strip, (margin, top))
        draw.text((4, top + strip_h // 2), name, fill="black", anchor="lm")
    return sheet


def _tiles(images: Tensor) -> np.ndarray:
    """uint8 NHWC with one, three or four channels."""
    pixels = to_uint8(images.detach().float()).cpu()
    if pixels.shape[1] == 2:
        pixels = pixels[:, :1]
    elif pixels.shape[1] > 4:
        pixels = pixels[:, :3]
    return pixels.permute(0, 2, 3, 1).contiguous(memory_format=torch.contiguous_format).numpy()
