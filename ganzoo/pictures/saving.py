"""Pictures as files, which are written completely or not at all."""

from pathlib import Path

from PIL import Image

from ganzoo.disk import whole


def save_png(picture: Image.Image, path: Path) -> None:
    """Write a PNG, and its folder if that is missing; UserError if it cannot be written."""
    with whole(path) as partial:
        path.parent.mkdir(exist_ok=True)
        picture.save(partial, "PNG")
