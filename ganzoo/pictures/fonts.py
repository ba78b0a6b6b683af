"""The font of all texts in pictures."""

from functools import cache
from pathlib import Path

import matplotlib
from PIL import ImageFont


@cache
def font_of(size: int) -> ImageFont.FreeTypeFont:
    """A font that comes with matplotlib, so that pictures look the same everywhere."""
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return ImageFont.truetype(fonts / "DejaVuSans.ttf", size)
