"""Show samples next to the training images that are most similar to them.

A generator that has memorized its training images gives itself away. Similarity is measured in two
ways: by the features of a network, which see what an image shows, and by pixels, which find copies.
"""

import argparse
import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ganzoo import cli
from ganzoo.disk import whole
from ganzoo.errors import UserError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from ganzoo.data.reference import Reference
    from ganzoo.metrics.nearest import Near


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    with cli.exits("neighbors"):
        run(args)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = cli.parser("neighbors", __doc__)
    add = parser.add_argument
    cli.add_checkpoint(parser)
    add(
        "--out", type=cli.path, required=True,
        help="the picture NAME.png; NAME.csv next to it names the images",
    )  # fmt: skip
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--num", type=cli.at_least(1), default=8, help="use seeds 0 to NUM - 1 (%(default)s)"
    )
    which.add_argument("--seeds", type=cli.numbers, help="seeds such as 0-7 or 1,5,8-11")
    add("--class", type=cli.classes, dest="label", help="class of the samples, by number or name")
    add("--truncation", type=float, help="limit of the latents")
    add(
        "--neighbors", type=cli.at_least(1), default=4,
        help="training images to show for each sample, by each way (%(default)s)",
    )  # fmt: skip
    add("--data", type=cli.text, help="the training images, if they have moved")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Write the picture and the table that the command line asks for."""
    if args.out.suffix.lower() != ".png":
        raise UserError("The picture is a PNG: use --out NAME.png.")
    if args.truncation is not None and not 0 < args.truncation < math.inf:
        raise UserError("--truncation must be greater than 0: latents are drawn until they fit.")
    device = cli.device(args.device)
    from ganzoo.data.choosing import source_of, training_data
    from ganzoo.data.reference import Reference
    from ganzoo.engine.checkpoint import load
    from ganzoo.engine.kinds import only_from_seeds
    from ganzoo.metrics.extractors import auto
    from ganzoo.metrics.nearest import by_features, by_pixels
    from ganzoo.pictures.saving import save_png
    from ganzoo.sample import labels_of

    gan = only_from_seeds(load(args.checkpoint, device, args.trust))
    data = training_data(args.checkpoint, gan.config, args.trust)
    if args.data:
        data.source = source_of(args.data, data.source.shape[1:], data.channels)
    data.prepare_data()
    data.check()
    seeds = args.seeds or list(range(args.num))
    labels = labels_of(gan, args.label) or []
    if len(labels) > 1:
        raise UserError("--class is one class: the class of all samples.")
    label = labels[0] if labels else None
    images = gan.sample(seeds, label=label, truncation=args.truncation, raw=args.raw)
    reference = Reference(data)
    if len(reference) <= args.neighbors:
        raise UserError(f"There are only {len(reference)} training images: lower --neighbors.")
    found = {
        "features": by_features(images, reference, auto().to(gan.device), args.neighbors),
        "pixels": by_pixels(images, reference, args.neighbors),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_png(picture(images, seeds, reference, found), args.out)
    write(args.out.with_suffix(".csv"), seeds, reference, found)
    for way, near in found.items():
        shares = near.distances[:, 0] / max(near.usual, 1e-12)
        closest = int(shares.argmin())
        print(
            f"by {way}: samples are {float(shares.median()):.2f} times as far from the nearest "
            f"training image as training images are from each other; the nearest is seed "
            f"{seeds[closest]}, {float(shares[closest]):.2f}"
        )
    print("Near 0 is a copy. A blurry copy is near by pixels only: well below 1.")
    print(f"{args.out}: each sample, the nearest training images by features, and by pixels")


def picture(
    images: "Tensor", seeds: Sequence[int], reference: "Reference", found: Mapping[str, "Near"]
) -> "Image.Image":
    """A row for each sample: the sample, and after a gap its neighbors, one way after the other."""
    import torch

    from ganzoo.metrics.nearest import at
    from ganzoo.pictures.grids import named_rows

    rows = {}
    white = torch.ones_like(images[:1]).cpu()
    for i, seed in enumerate(seeds):
        row = [images[i : i + 1].cpu()]
        for near in found.values():
            row += [white, at(reference, near.places[i])]
        rows[f"seed {seed}"] = torch.cat(row)
    return named_rows(rows)


def write(
    path: Path, seeds: Sequence[int], reference: "Reference", found: Mapping[str, "Near"]
) -> None:
    """Write a row for each sample and neighbor: the name of the neighbor and how near it is."""
    source, numbers = reference.data.source, reference.images
    rows = [
        [seed, way, rank, source.name_of(int(numbers[place])), reference.mirrored(place),
         f"{distance:.6g}", f"{distance / max(near.usual, 1e-12):.4g}"]
        for way, near in found.items()
        for seed, places, far in zip(seeds, near.places, near.distances, strict=True)
        for rank, (place, distance) in enumerate(
            zip(places.tolist(), far.tolist(), strict=True), 1
        )
    ]  # fmt: skip
    with whole(path) as partial, partial.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["seed", "by", "rank", "image", "mirrored", "distance", "of_usual"])
        writer.writerows(rows)


if __name__ == "__main__":
    main()
