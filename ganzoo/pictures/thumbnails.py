"""A picture that compares runs: for each, lines of text and its newest grid of samples."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw

from ganzoo.pictures.fonts import font_of
from ganzoo.pictures.web import newest

SIZE = (640, 192)  # width and height of a grid in pixels, at most
MARGIN = 360  # width of the text in pixels; what is longer is hidden behind the grid
LINE = 16  # height of a line of text in pixels


class Row(NamedTuple):
    """A row of the picture: lines of text with samples to their right, or a heading without."""

    lines: Sequence[str]
    samples: Image.Image | None


def samples_of(run_dir: Path) -> tuple[Image.Image, str] | None:
    """The newest samples of a run, made small, and their kimg; None without any readable ones."""
    path = newest(run_dir / "samples")
    if path is None:
        return None
    try:
        with Image.open(path) as picture:
            sheet = picture.convert("RGBA")
    except (OSError, SyntaxError):  # Pillow raises these for a damaged file
        return None
    white = Image.new("RGBA", sheet.size, "white")
    small = Image.alpha_composite(white, sheet).convert("RGB")
    small.thumbnail(SIZE)
    return small, f"{float(path.stem):g}"


def picture_of(rows: Sequence[Row]) -> Image.Image:
    """The rows, one below the other, on white."""
    heights = [
        8 + max(LINE * len(row.lines), row.samples.height if row.samples else 0) for row in rows
    ]
    sheet = Image.new("RGB", (MARGIN + SIZE[0], sum(heights)), "white")
    draw, top = ImageDraw.Draw(sheet), 0
    for row, height in zip(rows, heights, strict=True):
        for i, line in enumerate(row.lines):
            font = font_of(13 if i == 0 else 11)
            draw.text((6, top + 4 + LINE * i), line, "black", font)
        if row.samples:
            sheet.paste(row.samples, (MARGIN, top + 4))
        top += height
    return sheet
