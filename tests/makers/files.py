"""Small data sets as they are downloaded, filled with noise; single images as files."""

import gzip
import pickle
import struct
from pathlib import Path

import numpy as np
import torchvision
from PIL import Image

DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # of its package dataset-fashion-mnist
FASHION = np.random.default_rng(0).integers(0, 256, (5, 28, 28), np.uint8)
LABELS = np.array([9, 0, 3, 3, 1], np.uint8)


def write_fashion(folder: Path, packed: bool = False, prefix: str = "train") -> None:
    """The files of the data set, with five images of noise."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind, array in [("images-idx3", FASHION), ("labels-idx1", LABELS)]:
        header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
        name = folder / f"{prefix}-{kind}-ubyte"
        if packed:
            with gzip.open(f"{name}.gz", "wb") as file:
                file.write(header + array.tobytes())
        else:
            name.write_bytes(header + array.tobytes())


def write_cifar10(root: Path, monkeypatch) -> np.ndarray:
    """The files as the archive unpacks, two images in each; returns the pixels of one file."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3072), dtype=np.uint8)
    reader = torchvision.datasets.CIFAR10
    lists = {"train_list": [f"data_batch_{i}" for i in range(1, 6)], "test_list": ["test_batch"]}
    for key, names in lists.items():
        for name in names:
            (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": [3, 7]}))
        # the published checksums are those of the whole files
        monkeypatch.setattr(reader, key, [[name, None] for name in names])
    classes = [str(i) for i in range(10)]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": classes}))
    meta = {"filename": "batches.meta", "key": "label_names", "md5": None}
    monkeypatch.setattr(reader, "meta", meta)
    return pixels


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def gray(value: int) -> np.ndarray:
    return np.full((4, 4), value, np.uint8)
