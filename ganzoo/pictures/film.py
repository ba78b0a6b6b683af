"""Animations."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image


def save_gif(frames: Sequence[Image.Image], path: Path, frames_per_second: int = 20) -> None:
    """Write an endless GIF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *rest = frames
    duration = round(1000 / frames_per_second)
    first.save(path, save_all=True, append_images=rest, duration=duration, loop=0)
