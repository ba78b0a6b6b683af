"""Photographs as encoded files, and the checks of every source that reads such files."""

import io
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from makers.photos import crops
from makers.tiny import TINY, config
from PIL import Image
from torch.utils.data import DataLoader

from ganzoo.data.encoded import EncodedImages
from ganzoo.errors import UserError
from ganzoo.train import train_config as train

SIDE = 16


def photos(count: int, seed: int = 0) -> list[Image.Image]:
    return crops(count, 64, 48, seed)


def encoded(photo: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    photo.save(buffer, format, **options)
    return buffer.getvalue()


def means(data: bytes) -> np.ndarray:
    """The square in the middle of an image, and the mean over the area of each pixel to be."""
    photo = Image.open(io.BytesIO(data)).convert("RGB")
    short = min(photo.size)
    left, top = (photo.width - short) // 2, (photo.height - short) // 2
    square = np.asarray(photo.crop((left, top, left + short, top + short)), float)
    fine = square.repeat(SIDE, 0).repeat(SIDE, 1)
    return fine.reshape(SIDE, short, SIDE, short, 3).mean((1, 3)).transpose(2, 0, 1)


def check_pixels(source: EncodedImages, files: Sequence[bytes]) -> None:
    assert len(source) == len(files)
    images = source.__getitems__(list(range(len(files))))["image"]
    assert images.dtype == torch.uint8
    expected = np.stack([means(data) for data in files])
    assert np.abs(images.numpy() - expected).max() <= 0.6  # rounding, and Pillow's thirds


def check_processes(source: EncodedImages) -> None:
    """The same images here, in workers, here again, and after pickling."""
    batches = [[0, len(source) - 1], [1], [2, 0, 1], [len(source) // 2]]
    here = [source.__getitems__(batch) for batch in batches]
    loader = DataLoader(source, batch_sampler=batches, collate_fn=lambda b: b, num_workers=2)
    again = [source.__getitems__(batch) for batch in batches]
    copy = pickle.loads(pickle.dumps(source))
    copied = [copy.__getitems__(batch) for batch in batches]
    for other in (list(loader), again, copied):
        for expected, got in zip(here, other, strict=True):
            assert expected.keys() == got.keys()
            assert all(torch.equal(expected[key], got[key]) for key in expected)


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as told:
        call()
    message = str(told.value)
    assert "\n" not in message, message
    assert message.endswith("."), message
    return message


def check_run(folder: Path, *overrides: str) -> None:
    """A tiny run of two iterations."""
    small = [o for o in TINY if not o.startswith(("data", "callbacks.ticks", "callbacks.grid"))]
    quiet = ("~callbacks.ticks", "~callbacks.grid", "~callbacks.bar", "total_kimg=0.016")
    train(config(*small, *quiet, f"run_dir={folder}", *overrides, tiny=False))
    assert (folder / "done").exists()
