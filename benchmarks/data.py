"""The speed of reading images: from a folder of JPEGs, by torchvision and by us, and from a pack.

The readers take turns in one process, in blocks of about a second, so that other work of the
machine affects them equally. See `benchmarks/README.md`.
"""

import argparse
import json
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib
import numpy as np
import torch
import torchvision
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms

from ganzoo.data import ImageData
from ganzoo.data.packing import write_pack
from ganzoo.data.source import Source
from ganzoo.data.sources.folder import Folder
from ganzoo.data.sources.pack import Pack

WIDTH, HEIGHT = 178, 218  # aligned CelebA
Reader = Callable[[], int]  # reads a batch, returns its number of images


def write_jpegs(folder: Path, photographs: Path | None, count: int) -> None:
    """`count` crops of photographs, as JPEGs of the size of aligned CelebA."""
    folder.mkdir(parents=True)
    paths = sorted(photographs.glob("*.jpg")) if photographs else []
    if not paths:
        paths = [Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"]
    photos = []
    for path in paths:
        with Image.open(path) as photo:
            photo.draft("RGB", (800, 800))
            photos.append(photo.convert("RGB"))
    rng = np.random.default_rng(0)
    for i in range(count):
        whole = photos[i % len(photos)]
        left = int(rng.integers(whole.width - WIDTH + 1))
        top = int(rng.integers(whole.height - HEIGHT + 1))
        crop = whole.crop((left, top, left + WIDTH, top + HEIGHT))
        crop.save(folder / f"{i:06d}.jpg", quality=90)


# -- readers ---------------------------------------------------------------------------------------


def torchvision_reader(root: Path, size: int, batch: int, workers: int) -> Reader:
    """ImageFolder as most scripts use it: resized, cropped, to floats in [-1, 1], shuffled."""
    transform = transforms.Compose(
        [
            transforms.Resize(size),
            transforms.CenterCrop(size),
            transforms.ToTensor(),
            transforms.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )
    data = torchvision.datasets.ImageFolder(str(root), transform)
    loader: DataLoader = DataLoader(
        data, batch, shuffle=True, num_workers=workers, drop_last=True, persistent_workers=True
    )

    def forever() -> Iterator[torch.Tensor]:
        while True:
            for images, _ in loader:
                yield images

    batches = forever()
    return lambda: len(next(batches))


def ganzoo_reader(source: Source, size: int, batch: int, workers: int) -> Reader:
    """Batches as a model gets them: shuffled, mirrored, floats in [-1, 1]."""
    data = ImageData(source, size, 3, batch, seed=0, workers=workers)
    module = SimpleNamespace(
        images_seen=0,
        discriminator_steps=1,
        batch_size=None,
        shown_size=None,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    data.trainer = SimpleNamespace(
        lightning_module=module, global_rank=0, world_size=1, training=True
    )
    batches = iter(data.train_dataloader())
    return lambda: len(data.on_after_batch_transfer(next(batches), 0)["image"])


def images_per_second(read: Reader, seconds: float, ahead: int) -> float:
    """Over a block, after the batches that were read ahead while others had their turn."""
    for _ in range(ahead):
        read()
    images, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds:
        images += read()
    return images / spent


def compare_readers(args: argparse.Namespace, jpegs: Path, pack: Path) -> dict[str, Any]:
    """Medians, and medians of the ratios within a round."""
    root = jpegs.parent  # ImageFolder wants class folders
    readers = {
        "torchvision": torchvision_reader(root, args.size, args.batch, args.workers),
        "folder": ganzoo_reader(Folder(str(jpegs), args.size), args.size, args.batch, args.workers),
        "pack": ganzoo_reader(Pack(str(pack), args.size), args.size, args.batch, 0),
    }
    rounds: list[dict[str, float]] = []
    order = list(readers)
    shuffle = random.Random(0).shuffle
    for number in range(-1, args.rounds):
        shuffle(order)
        speeds = {}
        for name in order:
            speeds[name] = images_per_second(readers[name], args.seconds, 2 * args.workers + 2)
        if number >= 0:  # the first round warms up
            rounds.append(speeds)
    ratios = {"folder/torchvision": ("folder", "torchvision"),
              "pack/torchvision": ("pack", "torchvision"),
              "pack/folder": ("pack", "folder")}  # fmt: skip
    return {
        "images per second": {n: statistics.median(r[n] for r in rounds) for n in readers},
        "ratios": {
            k: statistics.median(r[a] / r[b] for r in rounds) for k, (a, b) in ratios.items()
        },
        "rounds": rounds,
    }


def packing(args: argparse.Namespace, jpegs: Path, folder: Path) -> dict[str, float]:
    """Images per second and core of packing, by number of worker processes."""
    speeds = {}
    for workers in sorted({1, os.cpu_count() or 1}):
        times = []
        for repeat in range(3):
            source = Folder(str(jpegs), args.size)
            start = time.perf_counter()
            write_pack(source, folder / f"pack{workers}-{repeat}", workers=workers)
            times.append(time.perf_counter() - start)
        speeds[str(workers)] = args.images / statistics.median(times) / workers
    return speeds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photographs", type=Path, help="folder of large JPEGs to cut from")
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2, help="of the two that read the folder")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a block")
    parser.add_argument("--threads", type=int, default=1, help="of torch in this process")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        jpegs = Path(folder) / "root" / "jpegs"
        write_jpegs(jpegs, args.photographs, args.images)
        result: dict[str, Any] = {
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python "
            f"{platform.python_version()}, torch {torch.__version__}",
            "packing, images per second and core, by workers": packing(args, jpegs, Path(folder)),
        }
        result |= compare_readers(args, jpegs, next(Path(folder).glob("pack*")))
    for key, value in result.items():
        if key != "rounds":
            print(f"{key}: {value if isinstance(value, str) else ''}")
        if isinstance(value, dict):
            for name, number in value.items():
                print(f"  {name:20} {number:10.2f}")
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
