"""python -m ganzoo.neighbors: samples beside the training images that are most like them.

A generator that has learned images by heart gives itself away. Near is told in two ways: by the
features of a network, which see what an image shows, and by pixels, which find copies.
"""

import argparse
import csv
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from ganzoo.callbacks.signs import some
from ganzoo.data.choosing import source_of, training_data
from ganzoo.data.pixels import to_float, to_uint8
from ganzoo.data.reference import CHUNK, Reference
from ganzoo.engine.checkpoint import load
from ganzoo.errors import UserError
from ganzoo.metrics.cache import real_features, rgb
from ganzoo.metrics.extractors import Extractor, auto
from ganzoo.pictures.grids import named_rows
from ganzoo.sample import number_list

USUAL = 128  # training images whose nearest neighbors tell what distance is usual
BLOCK = 8192  # rows of features that are compared at once


class Near(NamedTuple):
    """The training images nearest to each of some images, the nearest first.

    Attributes:
        places: within the reference, int64 [N, K].
        distances: [N, K].
        usual: the median distance of a training image to the nearest other one.
    """

    places: Tensor
    distances: Tensor
    usual: float


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    try:
        run(args)
    except UserError as error:
        sys.exit(f"ganzoo.neighbors: {error}")
    except OSError as error:
        sys.exit(
            f"ganzoo.neighbors: {args.out} cannot be written ({error.strerror or error}): choose "
            f"another --out."
        )


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ganzoo.neighbors", description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="a .ckpt file or a run folder")
    parser.add_argument(
        "--out", type=Path, required=True, help="NAME.png; NAME.csv beside it names the images"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--num", type=int, default=8, help="seeds 0 to NUM - 1 (8)")
    which.add_argument("--seeds", type=number_list, help="seeds such as 0-7 or 1,5,8-11")
    parser.add_argument("--label", type=int, help="class of the samples")
    parser.add_argument("--truncation", type=float, help="limit of the latents")
    parser.add_argument("--raw", action="store_true", help="the generator, not its average")
    parser.add_argument("--neighbors", type=int, default=4, help="of each sample, by each way (4)")
    parser.add_argument("--data", help="where the training images lie now, if not where they did")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Do what the command line asks for. Raises `UserError` for what cannot be done."""
    if min(args.num, args.neighbors) < 1:
        raise UserError("--num and --neighbors must be at least 1.")
    if args.out.suffix.lower() != ".png":
        raise UserError("The picture is a .png: give --out something.png.")
    if args.truncation is not None and args.truncation <= 0:
        raise UserError("--truncation must be greater than 0: latents are drawn until they fit.")
    gan = load(args.checkpoint, args.device)
    data = training_data(args.checkpoint, gan.config)
    if args.data:
        data.source = source_of(args.data, data.source.shape[1:], data.channels)
    data.prepare_data()
    data.check()
    seeds = args.seeds or list(range(args.num))
    images = gan.sample(seeds, label=args.label, truncation=args.truncation, raw=args.raw)
    reference = Reference(data)
    if len(reference) <= args.neighbors:
        raise UserError(f"There are {len(reference)} training images: lower --neighbors.")
    found = {
        "features": by_features(images, reference, auto().to(gan.device), args.neighbors),
        "pixels": by_pixels(images, reference, args.neighbors),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    picture(images, seeds, reference, found).save(args.out)
    write(args.out.with_suffix(".csv"), seeds, reference, found)
    for way, near in found.items():
        shares = near.distances[:, 0] / max(near.usual, 1e-12)
        closest = int(shares.argmin())
        print(
            f"by {way}: samples are {float(shares.median()):.2f} times as far from the nearest "
            f"training image as these are from each other; the nearest is seed {seeds[closest]}, "
            f"{float(shares[closest]):.2f}"
        )
    print(f"{args.out}: each sample, the nearest training images by features, and by pixels")


# -- distances -------------------------------------------------------------------------------------


def by_features(images: Tensor, reference: Reference, extractor: Extractor, num: int) -> Near:
    """The nearest by the features of a network, of images float [N, C, H, W] in [-1, 1]."""
    real = real_features(reference, extractor, images.device).features
    rows = torch.cat([extractor(rgb(to_uint8(part)))[0] for part in images.split(64)]).cpu()

    def parts() -> Iterator[tuple[int, Tensor]]:
        yield from ((start, real[start : start + BLOCK]) for start in range(0, len(real), BLOCK))

    chosen = torch.tensor(some(len(real), USUAL))
    return nearest(rows, real[chosen], chosen, parts, num)


def by_pixels(images: Tensor, reference: Reference, num: int) -> Near:
    """The nearest by pixels in [-1, 1], of images float [N, C, H, W]."""
    chosen = torch.tensor(some(len(reference), USUAL)).sort().values
    device = images.device

    def parts(which: Sequence[int] | None = None) -> Iterator[tuple[int, Tensor]]:
        which = range(reference.num_chunks) if which is None else which
        for chunk in reference.chunks(which, device):
            yield int(chunk.places[0]), to_float(chunk.images).flatten(1)

    wanted = sorted({place // CHUNK for place in chosen.tolist()})
    kept = {
        place: row
        for start, rows in parts(wanted)
        for place, row in enumerate(rows, start)
        if place in chosen.tolist()
    }
    reals = torch.stack([kept[place] for place in chosen.tolist()])
    return nearest(images.float().clamp(-1, 1).flatten(1), reals, chosen, parts, num)


def nearest(
    rows: Tensor,
    reals: Tensor,
    places: Tensor,
    parts: Callable[[], Iterable[tuple[int, Tensor]]],
    num: int,
) -> Near:
    """The nearest of many training images to each of some samples, by Euclidean distance.

    Args:
        rows: samples [N, D].
        reals: some of the training images [M, D], at `places` [M], to tell what is usual.
        parts: of all training images, as pairs of the first place and rows [n, D].
        num: how many.
    """
    queries = torch.cat([rows, reals.to(rows)])
    found = torch.empty(len(queries), 0, dtype=torch.int64)
    distances = torch.empty(len(queries), 0)
    for start, others in parts():
        exactly = "donot_use_mm_for_euclid_dist"
        far = torch.cdist(queries, others.to(queries), compute_mode=exactly).cpu()
        here = torch.arange(start, start + len(others)).expand(len(queries), -1)
        far[len(rows) :][here[len(rows) :] == places[:, None]] = torch.inf  # itself
        far, order = torch.cat([distances, far], 1).sort(dim=1, stable=True)
        found = torch.cat([found, here], 1).gather(1, order[:, :num])
        distances = far[:, :num]
    usual = float(distances[len(rows) :, 0].median())
    return Near(found[: len(rows)], distances[: len(rows)], usual)


# -- what is told ----------------------------------------------------------------------------------


def picture(
    images: Tensor, seeds: Sequence[int], reference: Reference, found: Mapping[str, Near]
) -> Image.Image:
    """A row for each sample: it, and after a gap each its neighbors by one way and by the other."""
    rows = {}
    white = torch.ones_like(images[:1]).cpu()
    for i, seed in enumerate(seeds):
        strip = [images[i : i + 1].cpu()]
        for near in found.values():
            strip += [white, at(reference, near.places[i])]
        rows[f"seed {seed}"] = torch.cat(strip)
    return named_rows(rows)


def at(reference: Reference, places: Tensor) -> Tensor:
    """Images of a reference, float [N, C, H, W] in [-1, 1]."""
    return torch.cat(
        [
            to_float(chunk.images[place % CHUNK : place % CHUNK + 1]).cpu()
            for place in places.tolist()
            for chunk in reference.chunks([place // CHUNK])
        ]
    )


def write(
    path: Path, seeds: Sequence[int], reference: Reference, found: Mapping[str, Near]
) -> None:
    """A row for each sample and neighbor: its name, and how near it is."""
    source, numbers = reference.data.source, reference.images
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["seed", "by", "rank", "image", "mirrored", "distance", "of_usual"])
        for way, near in found.items():
            for seed, places, far in zip(seeds, near.places, near.distances, strict=True):
                for rank, (place, distance) in enumerate(
                    zip(places.tolist(), far.tolist(), strict=True), 1
                ):
                    mirrored = reference.mirrored(place)
                    name = source.name_of(int(numbers[place]))
                    share = distance / max(near.usual, 1e-12)
                    writer.writerow(
                        [seed, way, rank, name, mirrored, f"{distance:.6g}", f"{share:.4g}"]
                    )


if __name__ == "__main__":
    main()
