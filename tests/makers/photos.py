"""Real photographs to test with: matplotlib's sample, and Debian's wallpapers where installed."""

from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

WALLPAPERS = Path("/usr/share/backgrounds")  # of Debian's package lomiri-wallpapers-16.04


@cache
def photographs() -> list[Image.Image]:
    """Some photographs in RGB, about 600 pixels high."""
    sample = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    photos = [Image.open(sample).convert("RGB")]
    for path in sorted(WALLPAPERS.glob("*.jpg"))[:6]:
        photo = Image.open(path)
        photo.draft("RGB", (600, 600))
        photos.append(photo.convert("RGB"))
    return photos


def crops(count: int, width: int = 178, height: int = 218, seed: int = 0) -> list[Image.Image]:
    """Windows of photographs; the defaults are the size of aligned CelebA."""
    rng = np.random.default_rng(seed)
    out = []
    for i in range(count):
        photo = photographs()[i % len(photographs())]
        left = int(rng.integers(photo.width - width + 1))
        top = int(rng.integers(photo.height - height + 1))
        out.append(photo.crop((left, top, left + width, top + height)))
    return out


def write_crops(folder: Path, count: int = 24, side: int = 16) -> Path:
    """A folder of square windows of photographs, as PNG."""
    folder.mkdir()
    for i, photo in enumerate(crops(count, side, side)):
        photo.save(folder / f"{i:02d}.png")
    return folder
