"""Write images that a trained model generates: a grid, a walk, class sheets, or a file per image.

The same seed gives the same image, whatever else is asked for in the same call.
"""

import argparse
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ganzoo import cli
from ganzoo.errors import UserError, first

if TYPE_CHECKING:
    from torch import Tensor

    from ganzoo.engine.kinds import FromSeeds

GIF, PNG = ".gif", ".png"
OTHERS = (".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".mp4", ".webm", ".apng")
TILE, ALONE = 64, 256  # pixels that images are enlarged to, in a grid and alone


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    with cli.exits("sample"):
        run(args)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = cli.parser("sample", __doc__)
    add = parser.add_argument
    cli.add_checkpoint(parser)
    add(
        "--out", type=cli.path, required=True,
        help="NAME.png: one picture; NAME.gif: an animation; else a folder: a PNG per image",
    )  # fmt: skip
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--num", type=cli.at_least(1), help="use seeds 0 to NUM - 1")
    which.add_argument("--seeds", type=cli.numbers, help="seeds such as 0-63 or 1,5,8-11")
    which.add_argument("--walk", type=cli.numbers, help="walk from seed to seed and back (a GIF)")
    add(
        "--classes", type=cli.classes,
        help="classes by number or name, such as 3, 0-9 or cat,dog; several make a row each",
    )  # fmt: skip
    add(
        "--morph", type=cli.classes,
        help="from class to class with fixed seeds: NAME.png has a row per seed; or NAME.gif",
    )  # fmt: skip
    add("--frames", type=cli.at_least(1), help="frames from one seed or class to the next")
    add(
        "--scale", type=cli.at_least(1, 64),
        help="enlarge pictures by this whole factor (small images until they are "
        f"{TILE} pixels wide in a grid, and {ALONE} alone in a GIF; 1 for files of single images)",
    )  # fmt: skip
    add("--columns", type=cli.at_least(1), help="columns of the grid")
    add(
        "--truncation", type=thresholds,
        help="limit of the latents: values beyond it are drawn again; several, such as "
        "0.2,0.5,1,none, make a row each",
    )  # fmt: skip
    add(
        "--standing", type=cli.at_least(0),
        help="batches to re-estimate BatchNorm statistics from, if the generator has any (16 with "
        "--truncation, unless the checkpoint includes statistics, else 0)",
    )  # fmt: skip
    return parser.parse_args(argv)


def thresholds(text: str) -> list[float | None]:
    """Thresholds from text such as `0.5` or `0.2,1,none`."""
    try:
        found = [None if part == "none" else float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a list of thresholds such as 0.5 or 0.2,1,none"
        ) from None
    if any(t is not None and not 0 < t < math.inf for t in found):
        raise argparse.ArgumentTypeError("a threshold must be greater than 0, and finite")
    return found


def check(args: argparse.Namespace) -> None:
    """Raise `UserError` for arguments that exclude each other, before anything is loaded."""
    gif, png = (args.out.suffix.lower() == ending for ending in (GIF, PNG))
    if (args.walk is not None and not gif) or (gif and args.walk is None and args.morph is None):
        raise UserError("A walk is a GIF: use --walk together with --out NAME.gif.")
    if args.out.suffix.lower() in OTHERS or args.out.name.lower() in (PNG, GIF):
        raise UserError("Pictures are written as NAME.png, animations as NAME.gif.")
    if args.walk is not None and len(args.walk) < 2:
        raise UserError("--walk needs at least two seeds, such as 3,7.")
    if args.frames and not (args.walk or args.morph):
        raise UserError("--frames belongs to --walk or --morph.")
    rows = len(args.truncation or []) > 1 or len(args.classes or []) > 1
    if args.columns and (args.walk or rows or not (gif or png) or (args.morph and png)):
        raise UserError("--columns belongs to a grid: these pictures have their own rows.")
    if args.morph and (args.walk or args.classes or not (gif or png)):
        raise UserError("Use --morph with --out NAME.png or NAME.gif, without --walk or --classes.")
    if args.morph and len(args.morph) < 2:
        raise UserError("--morph needs at least two classes, such as 3,7.")
    classes = len(args.classes or [])
    if len(args.truncation or []) > 1 and (not png or args.morph or classes > 1):
        raise UserError("Several thresholds make rows of one PNG, of at most one class.")
    if args.walk and classes > 1:
        raise UserError("A walk shows a single class.")


def run(args: argparse.Namespace) -> None:
    """Write what the command line asks for."""
    check(args)
    device = cli.device(args.device)
    from ganzoo.data.choosing import refuse_among_training
    from ganzoo.engine.checkpoint import load
    from ganzoo.engine.kinds import batches_for, only_from_seeds
    from ganzoo.pictures import sheets
    from ganzoo.pictures.grids import grid, named_rows, singles
    from ganzoo.pictures.saving import save_gif

    gan = only_from_seeds(load(args.checkpoint, device, args.trust))
    args.classes, args.morph = labels_of(gan, args.classes), labels_of(gan, args.morph)
    refuse_among_training(args.out, gan.config)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    gif, png = (args.out.suffix.lower() == ending for ending in (GIF, PNG))
    batches = batches_for(gan, args.standing, args.truncation is not None)
    threshold, *more = args.truncation or [None]
    label = args.classes[0] if args.classes else None
    if more:
        rows = sheets.truncations(gan, seeds_of(args, 8), args.truncation, label, args.raw, batches)
        named_rows({name: larger(row, args) for name, row in rows.items()}).save(args.out)
        print(args.out)
        return
    with gan.standing_statistics(threshold, batches, raw=args.raw):
        if args.walk:
            way = sheets.walk(gan, args.walk, args.frames or 30, threshold, args.raw, label)
            save_gif(singles(larger(way, args, ALONE)), args.out)
        elif args.morph:
            seeds, steps = seeds_of(args, 1 if gif else 4), args.frames or (30 if gif else 8)
            images = sheets.morph(gan, args.morph, seeds, steps, threshold, args.raw, loop=gif)
            if gif:
                frames = larger(images, args, ALONE if len(seeds) == 1 else TILE).unbind(1)
                save_gif([grid(frame, args.columns) for frame in frames], args.out)
            else:
                grid(larger(images, args).flatten(0, 1), images.shape[1]).save(args.out)
        elif not png:
            files(gan, args, threshold)
        elif len(args.classes or []) > 1:
            rows = sheets.class_sheet(gan, args.classes, seeds_of(args, 8), threshold, args.raw)
            named_rows({name: larger(row, args) for name, row in rows.items()}).save(args.out)
        else:
            images = gan.sample(seeds_of(args, 64), label, threshold, args.raw)
            grid(larger(images, args), args.columns).save(args.out)
    print(args.out)


def larger(images: "Tensor", args: argparse.Namespace, least: int = TILE) -> "Tensor":
    """Images [..., H, W], enlarged by `--scale`, or until they are `least` pixels wide or high."""
    from ganzoo.pictures.grids import enlarged

    return enlarged(images, args.scale or max(1, least // max(images.shape[-2:])))


def labels_of(gan: "FromSeeds", given: list[int | str] | None) -> list[int] | None:
    """The classes asked for, by their numbers. Raises `UserError` for names that are unknown."""
    names = gan.class_names or []
    for name in given or ():
        if isinstance(name, str) and name not in names:
            raise UserError(
                f"There is no class {name}: this model has {first(names, 20)}."
                if names
                else f"There is no class {name}, for this model's classes have no names: give "
                f"numbers such as 0-9."
            )
    return [names.index(n) if isinstance(n, str) else n for n in given] if given else None


def seeds_of(args: argparse.Namespace, default: int) -> list[int]:
    """The seeds asked for, or the first few."""
    return args.seeds or list(range(args.num or default))


def files(gan: "FromSeeds", args: argparse.Namespace, threshold: float | None) -> None:
    """Write a PNG for each seed, or for each class and seed."""
    from tqdm import tqdm

    from ganzoo.pictures.grids import enlarged, singles

    seeds = seeds_of(args, 64)
    classes: Sequence[int | None] = args.classes or [None]
    args.out.mkdir(parents=True, exist_ok=True)
    with tqdm(total=len(classes) * len(seeds), unit=" images", disable=None) as bar:
        for label in classes:
            start = "" if label is None else f"class{label:04d}_"
            for at in range(0, len(seeds), 64):
                part = seeds[at : at + 64]
                images = gan.sample(part, label, threshold, args.raw)
                images = enlarged(images, args.scale or 1)
                for seed, picture in zip(part, singles(images), strict=True):
                    picture.save(args.out / f"{start}seed{seed:06d}.png")
                bar.update(len(part))


if __name__ == "__main__":
    main()
