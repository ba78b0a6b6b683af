"""A picture of runs side by side: a row of samples each, cut from the newest sheet of each run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageDraw

from ganzoo.pictures.grids import GAP, font_of, margin_of

TILES = 8  # of a row
SIDE = 96  # pixels that a tile is high, or somewhat less
MARGIN = 300  # pixels for names
LINE = 16  # pixels
PANEL = ("reconstructed A", "reconstructed B")  # the longest names of rows in a `Panel`


class Row(NamedTuple):
    """A row of the picture: lines of text, and samples at their right; without any, a heading."""

    lines: Sequence[str]
    samples: Image.Image | None


def newest(run_dir: Path) -> Path | None:
    """The newest sheet of samples of the averaged generator, None where there is none."""
    sheets = [p for p in (run_dir / "samples").glob("*.png") if p.stem.replace(".", "").isdecimal()]
    return max(sheets, key=lambda path: float(path.stem), default=None)


def samples_of(run_dir: Path, config: Mapping[str, Any]) -> tuple[Image.Image, str] | None:
    """Some of the newest samples of a run in a row, and at how many thousand images they are from.

    None where there are none that can be read.

    They are spread over the sheet, so that they are of several classes where rows are classes. Of
    a model that translates, images of both domains are above what became of them.

    Args:
        config: flat, as `ganzoo.runs.differences.read_config` has it.
    """
    path = newest(run_dir)
    if path is None:
        return None
    try:
        with Image.open(path) as picture:
            sheet = on_white(picture)
    except (OSError, SyntaxError):  # so Pillow calls a file that is broken
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
    """Tiles of a grid, from the first to the last; if it is one of so many seeds, to theirs."""
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
    """Columns of a `Panel`: real images of A, then of B, and their translations below."""
    margin = margin_of(PANEL)
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
    """How many tiles make up so many pixels; 0 if none do exactly."""
    count, rest = divmod(pixels + GAP, side + GAP)
    return 0 if rest else count


def _tile(sheet: Image.Image, corner: tuple[int, int], h: int, w: int) -> Image.Image:
    x, y = corner
    tile = sheet.crop((x, y, x + w, y + h))
    if h <= SIDE:  # small images are enlarged in whole steps, so that one sees their pixels
        return tile.resize((SIDE // h * w, SIDE // h * h), Image.Resampling.NEAREST)
    return tile.resize((max(1, round(w * SIDE / h)), SIDE), Image.Resampling.LANCZOS)


def _whole(sheet: Image.Image) -> Image.Image:
    """A sheet of no known layout, as it is but small."""
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
    """Any picture as RGB, what is transparent on white."""
    if picture.mode != "RGBA":
        return picture.convert("RGB")
    white = Image.new("RGB", picture.size, "white")
    white.paste(picture, mask=picture.getchannel("A"))
    return white


def picture_of(rows: Sequence[Row]) -> Image.Image:
    """The rows one under the other, on white."""
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
    """A text in so many pixels, without its middle where it is longer."""
    font, left = font_of(size), len(text)
    short = text
    while font.getlength(short) > room:
        left -= 1
        short = f"{text[: left // 2]}…{text[len(text) - (left - left // 2) :]}"
    return short
