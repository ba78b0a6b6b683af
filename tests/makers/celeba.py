"""CelebA's images, as a folder and as the archive that is distributed."""

import zipfile
from pathlib import Path

from makers.photos import crops

NUM = 12
NAMES = [f"{i + 1:06d}.jpg" for i in range(NUM)]


def write_images(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, photo in zip(NAMES, crops(NUM), strict=True):
        photo.save(folder / name)
    return folder


def zip_of(folder: Path, out: Path) -> Path:
    out.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("img_align_celeba/", "")
        for name in NAMES:
            archive.write(folder / name, f"img_align_celeba/{name}")
    return out
