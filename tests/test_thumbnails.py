"""Thumbnails of a run's newest samples."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ganzoo.pictures.grids import grid
from ganzoo.pictures.thumbnails import samples_of


def sheet_of(folder: Path, picture: Image.Image, name: str = "000010") -> Path:
    (folder / "samples").mkdir(parents=True, exist_ok=True)
    picture.save(folder / "samples" / f"{name}.png")
    return folder


def test_samples_are_small_and_in_their_proportions(tmp_path) -> None:
    picture = Image.new("RGB", (4000, 2000), "white")
    picture.paste("black", (0, 0, 2000, 2000))
    strip, at = samples_of(sheet_of(tmp_path, picture))
    assert (at, strip.size) == ("10", (384, 192))
    assert np.asarray(strip)[5, 5].max() == 0
    assert np.asarray(strip)[5, -5].min() == 255


def test_what_is_transparent_is_on_white(tmp_path) -> None:
    images = torch.zeros(4, 4, 16, 16)
    images[:, 3] = -1
    strip, _ = samples_of(sheet_of(tmp_path, grid(images)))
    assert np.asarray(strip).min() == 255


def test_the_newest_sheet_of_the_average_is_taken(tmp_path) -> None:
    for shade, name in enumerate(("000002", "000010", "000009.500", "000011-raw", "notes")):
        sheet_of(tmp_path, Image.new("RGB", (16, 16), (shade, shade, shade)), name)
    strip, at = samples_of(tmp_path)
    assert at == "10"
    assert np.asarray(strip).max() == 1


def test_no_samples_and_broken_ones(tmp_path) -> None:
    assert samples_of(tmp_path) is None
    (tmp_path / "samples").mkdir()
    assert samples_of(tmp_path) is None
    (tmp_path / "samples" / "000001.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    assert samples_of(tmp_path) is None
    sheet_of(tmp_path, Image.effect_noise((66, 66), 100), "000002")
    whole = (tmp_path / "samples" / "000002.png").read_bytes()
    (tmp_path / "samples" / "000002.png").write_bytes(whole[: len(whole) // 2])
    assert samples_of(tmp_path) is None
