"""Pictures and animations as files."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ganzoo.disk import whole


def save_png(picture: Image.Image, path: Path) -> None:
    """Write a PNG completely or not at all; UserError if it cannot be written."""
    with whole(path) as partial:
        path.parent.mkdir(exist_ok=True)
        picture.save(partial, "PNG")


def save_gif(frames: Sequence[Image.Image], path: Path, frames_per_second: int = 20) -> None:
    """Write an endless GIF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *rest = frames
    duration = round(1000 / frames_per_second)
    first.save(path, save_all=True, append_images=rest, duration=duration, loop=0)
