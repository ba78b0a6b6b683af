"""Does a run repeat its training images? Distances of samples and of held-out images to them.

    python benchmarks/memorization.py RUN

A sample and an image of the test split, which the run has never seen, are each compared with the
training image nearest to it, by the features of a network and by pixels; mirrored images count. All
distances are divided by the usual one: the median between a training image and the nearest other
one. A run that copies has samples nearer to the training images than held-out images are.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from ganzoo.config import make
from ganzoo.data import choosing
from ganzoo.data.pixels import to_float
from ganzoo.data.reference import Reference
from ganzoo.engine.checkpoint import find, load
from ganzoo.engine.kinds import only_from_seeds
from ganzoo.metrics.extractors import auto
from ganzoo.metrics.nearest import by_features, by_pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", help="a run folder or checkpoint of data with a test split")
    parser.add_argument("--num", type=int, default=500, help="samples (%(default)s)")
    args = parser.parse_args()
    path = find(args.run)
    gan = only_from_seeds(load(path))
    assert gan.config is not None
    data = choosing.training_data(Path(path), gan.config)
    data.prepare_data()
    held_out = gan.config["data"]
    held_out = make({**held_out, "source": {**held_out["source"], "split": "test"}}).source
    tests = to_float(held_out.__getitems__(list(range(len(held_out))))["image"])
    of = {"samples": gan.sample(range(args.num)), "held-out images": tests}
    reference, extractor = Reference(data), auto()
    print(
        "| | number | by features: median | 5 % | below 0.5 | by pixels: median | 5 % | below 0.5 |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, images in of.items():
        cells = [str(len(images))]
        for near in (by_features(images, reference, extractor, 1), by_pixels(images, reference, 1)):
            cells += told(near.distances[:, 0] / near.usual)
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def told(shares: Tensor) -> list[str]:
    low = float(torch.quantile(shares, 0.05))
    return [
        f"{float(shares.median()):.2f}",
        f"{low:.2f}",
        f"{100 * float((shares < 0.5).float().mean()):.1f} %",
    ]


if __name__ == "__main__":
    main()
