"""A picture that compares runs: a row of samples for each, cut from its newest grid."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageDraw

from ganzoo.pictures.grids import GAP, font_of, margin_of

TILES = 8  # in a row
SIDE = 96  # height of a tile in pixels, at most
MARGIN = 300  # width of the names in pixels
LINE = 16  # height of a line of text in pixels
NAMES = ("reconstructed A", "reconstructed B")  # the longest names of rows of `Translations`


class Row(NamedTuple):
    """A row of the picture: lines of text with samples to their right, or a heading without."""

    lines: Sequence[str]
    samples: Image.Image | None


def newest(run_dir: Path) -> Path | None:
    """The newest grid of samples of the average generator; None if there is none."""
    sheets = [p for p in (run_dir / "samples").glob("*.png") if p.stem.replace(".", "").isdecimal()]
    return max(sheets, key=lambda path: float(path.stem), default=None)


def samples_of(run_dir: Path, config: Mapping[str, Any]) -> tuple[Image.Image, str] | None:
    """Some of the newest samples of a run in a row, and the thousands of images they are from.

    They are spread over the grid, so that they show several classes if its rows are classes. For a
    model that translates, images of both domains are shown above their translations.

    Args:
        run_dir: the run folder.
        config: the config of the run, flat as from `ganzoo.runs.differences.read_config`.

    Returns:
        the row and the thousands of images, or None if no grid can be read.
    """
    path = newest(run_dir)
    if path is None:
        return None
    try:
        with Image.open(path) as picture:
            sheet = on_white(picture)
    except (OSError, SyntaxError):  # Pillow raises these for a damaged file
        return None
    size = config.get("image_size", 0)
    h, w = size if isinstance(size, list) else (size, size)
    cut = None
    if h > 0 and w > 0:
        seeds = config.get("callbacks.grid.seeds")
        num = len(seeds) if isinstance(seeds, list) else seeds
        cut = _pairs(sheet, h, w) if "data.channels_b" in config else _spread(sheet, h, w, num)
    return cut or _whole(sheet), f"{float(path.stem):g}"


def _spread(sheet: Image.Image, h: int, w: int, seeds: int | None) -> Image.Image | None:
    """Tiles of a grid, evenly from the first to the last, which is that of the last seed."""
    columns, rows = _fits(sheet.width, w), _fits(sheet.height, h)
    if not columns or not rows:
        return None
    num = columns * rows
    if seeds and num - columns < seeds < num:  # the last row is not full
        num = seeds
    count = min(TILES, num)
    places = [round(i * (num - 1) / max(1, count - 1)) for i in range(count)]
    boxes = [(p % columns * (w + GAP), p // columns * (h + GAP)) for p in places]
    return _joined([[_tile(sheet, box, h, w) for box in boxes]])


def _pairs(sheet: Image.Image, h: int, w: int) -> Image.Image | None:
    """Columns of a picture by `Translations`: real images of A, then of B, above translations."""
    margin = margin_of(NAMES)
    columns, rows = _fits(sheet.width - margin, w), _fits(sheet.height, h)
    if not columns or not rows or rows % 2:
        return None
    count = min(TILES // 2, columns)
    lefts = [margin + i * (w + GAP) for i in range(count)]
    blocks = (0, rows // 2)
    return _joined(
        [
            [_tile(sheet, (x, (block + row) * (h + GAP)), h, w) for block in blocks for x in lefts]
            for row in (0, 1)
        ]
    )


def _fits(pixels: int, side: int) -> int:
    """Number of tiles in a width or height; 0 if tiles do not fit exactly."""
    count, rest = divmod(pixels + GAP, side + GAP)
    return 0 if rest else count


def _tile(sheet: Image.Image, corner: tuple[int, int], h: int, w: int) -> Image.Image:
    x, y = corner
    tile = sheet.crop((x, y, x + w, y + h))
    if h <= SIDE:  # enlarged by an integer, so that pixels stay sharp
        return tile.resize((SIDE // h * w, SIDE // h * h), Image.Resampling.NEAREST)
    return tile.resize((max(1, round(w * SIDE / h)), SIDE), Image.Resampling.LANCZOS)


def _whole(sheet: Image.Image) -> Image.Image:
    """A grid of unknown layout, shrunk."""
    small = sheet.copy()
    small.thumbnail((TILES * SIDE, 2 * SIDE))
    return small


def _joined(rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Tiles of one size in rows, on white."""
    w, h = rows[0][0].size
    size = len(rows[0]) * (w + GAP) - GAP, len(rows) * (h + GAP) - GAP
    joined = Image.new("RGB", size, "white")
    for y, row in enumerate(rows):
        for x, tile in enumerate(row):
            joined.paste(tile, (x * (w + GAP), y * (h + GAP)))
    return joined


def on_white(picture: Image.Image) -> Image.Image:
    """Any picture as RGB, with white behind transparent pixels."""
    if picture.mode != "RGBA":
        return picture.convert("RGB")
    white = Image.new("RGB", picture.size, "white")
    white.paste(picture, mask=picture.getchannel("A"))
    return white


def picture_of(rows: Sequence[Row]) -> Image.Image:
    """The rows, one below the other, on white."""
    heights = [
        8 + max(LINE * len(row.lines), row.samples.height if row.samples else 0) for row in rows
    ]
    width = MARGIN + max(row.samples.width if row.samples else 0 for row in rows)
    sheet = Image.new("RGB", (max(width, 2 * MARGIN), sum(heights)), "white")
    draw, top = ImageDraw.Draw(sheet), 0
    for row, height in zip(rows, heights, strict=True):
        for i, line in enumerate(row.lines):
            size = 13 if i == 0 else 11
            room = (MARGIN if row.samples else sheet.width) - 12
            draw.text((6, top + 4 + LINE * i), _cut(line, size, room), "black", font_of(size))
        if row.samples:
            sheet.paste(row.samples, (MARGIN, top + 4))
        top += height
    return sheet


def _cut(text: str, size: int, room: int) -> str:
    """A text shortened in its middle to fit into a width in pixels."""
    font, left = font_of(size), len(text)
    short = text
    while font.getlength(short) > room:
        left -= 1
        short = f"{text[: left // 2]}…{text[len(text) - (left - left // 2) :]}"
    return short
