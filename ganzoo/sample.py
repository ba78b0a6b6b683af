"""python -m ganzoo.sample: images from a checkpoint or run folder.

The same seed gives the same image, whatever else is asked for in the same call.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

from ganzoo.engine.checkpoint import load
from ganzoo.engine.gan import GAN
from ganzoo.engine.sampling import batches_for, statistics
from ganzoo.errors import UserError
from ganzoo.pictures.film import save_gif
from ganzoo.pictures.grids import grid, named_rows, singles
from ganzoo.pictures.sheets import class_sheet, morph, truncations, walk


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    try:
        run(args)
    except UserError as error:
        sys.exit(f"ganzoo.sample: {error}")
    except OSError as error:
        sys.exit(
            f"ganzoo.sample: {args.out} cannot be written ({error.strerror or error}): choose "
            f"another --out."
        )


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ganzoo.sample", description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="a .ckpt file or a run folder")
    parser.add_argument(
        "--out", type=Path, required=True,
        help="NAME.png: all in one picture; NAME.gif: a walk; else a folder: a PNG per image",
    )  # fmt: skip
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--num", type=int, help="seeds 0 to NUM - 1")
    which.add_argument("--seeds", type=number_list, help="seeds such as 0-63 or 1,5,8-11")
    which.add_argument(
        "--walk", type=number_list, help="walk from seed to seed and back to the first"
    )
    parser.add_argument(
        "--classes", type=number_list,
        help="classes such as 3 or 0-9; of several the picture has a row each",
    )  # fmt: skip
    parser.add_argument(
        "--morph", type=number_list,
        help="from class to class, seeds as they are: NAME.png: a row for each seed; or NAME.gif",
    )  # fmt: skip
    parser.add_argument("--frames", type=int, help="from one seed or class to the next")
    parser.add_argument("--columns", type=int, help="of the grid")
    parser.add_argument(
        "--truncation", type=threshold_list,
        help="limit of the latents, beyond which they are drawn again; of several, such as "
        "0.2,0.5,1,none, the picture has a row each",
    )  # fmt: skip
    parser.add_argument(
        "--standing", type=int,
        help="batches that statistics of BatchNorm are estimated anew from, if there are any "
        "(16 with --truncation, unless the generator came with its own, else 0)",
    )  # fmt: skip
    parser.add_argument("--raw", action="store_true", help="the generator, not its average")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args(argv)


def number_list(text: str) -> list[int]:
    """Numbers from text such as `0-63` or `1,5,8-11`."""
    numbers: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not first.isdecimal() or (last and not last.isdecimal()):
            raise argparse.ArgumentTypeError(
                f"{text!r} is no list of numbers such as 0-63 or 1,5,9"
            )
        numbers += range(int(first), int(last or first) + 1)
    if not numbers:
        raise argparse.ArgumentTypeError(f"{text!r} holds no number: the larger number comes last")
    return numbers


def threshold_list(text: str) -> list[float | None]:
    """Thresholds from text such as `0.5` or `0.2,1,none`."""
    try:
        return [None if part == "none" else float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no list of thresholds such as 0.5 or 0.2,1,none"
        ) from None


def run(args: argparse.Namespace) -> None:
    """Do what the command line asks for. Raises `UserError` for what cannot be done."""
    check(args)
    gan = load(args.checkpoint, args.device)
    thresholds = args.truncation or [None]
    batches = batches_for(gan, args.standing, args.truncation is not None)
    if len(thresholds) > 1:
        label = args.classes[0] if args.classes else None
        seeds = args.seeds or list(range(args.num or 8))
        save(named_rows(truncations(gan, seeds, thresholds, label, args.raw, batches)), args)
        return
    with statistics(gan, thresholds[0], batches, args.raw):
        sample(gan, args, thresholds[0])


def check(args: argparse.Namespace) -> None:
    """Raise `UserError` for what does not go together, before anything is loaded."""
    gif, png = (args.out.suffix.lower() == ending for ending in (".gif", ".png"))
    if (args.walk is not None and not gif) or (gif and args.walk is None and args.morph is None):
        raise UserError(
            "A walk is written to a .gif: give --walk and --out something.gif together."
        )
    if min(n for n in (args.num, args.frames, args.columns, 1) if n is not None) < 1:
        raise UserError("--num, --frames and --columns must be at least 1.")
    if args.standing is not None and args.standing < 0:
        raise UserError("--standing must be at least 0.")
    if args.truncation and any(t is not None and t <= 0 for t in args.truncation):
        raise UserError("--truncation must be greater than 0: latents are drawn until they fit.")
    if args.morph and (args.walk or args.classes or not (gif or png)):
        raise UserError(
            "From class to class goes a .png or a .gif: give --morph and --out with one of these, "
            "and neither --walk nor --classes."
        )
    if args.morph and len(args.morph) < 2:
        raise UserError("--morph needs at least two classes, such as 3,7.")
    many = args.truncation is not None and len(args.truncation) > 1
    if many and (not png or args.morph or (args.classes and len(args.classes) > 1)):
        raise UserError("Several thresholds make rows of a .png, of one class at most.")
    if args.walk and args.classes and len(args.classes) > 1:
        raise UserError("A walk from seed to seed is of one class.")
    try:
        torch.empty(0, device=args.device)
    except (RuntimeError, AssertionError) as error:  # so torch says that there is none
        raise UserError(f"--device {args.device} is not to be had: give cpu or cuda.") from error


def sample(gan: GAN, args: argparse.Namespace, threshold: float | None) -> None:
    """What is asked for, at one threshold."""
    gif = args.out.suffix.lower() == ".gif"
    if args.walk:
        label = args.classes[0] if args.classes else None
        frames = walk(gan, args.walk, args.frames or 30, threshold, args.raw, label)
        save_frames(singles(frames), args)
    elif args.morph:
        seeds = args.seeds or list(range(args.num or (1 if gif else 4)))
        steps = args.frames or (30 if gif else 8)
        images = morph(gan, args.morph, seeds, steps, threshold, args.raw, loop=gif)
        if gif:
            save_frames([grid(frame, args.columns) for frame in images.unbind(1)], args)
        else:
            save(grid(images.flatten(0, 1), images.shape[1]), args)
    elif args.out.suffix.lower() == ".png":
        if args.classes and len(args.classes) > 1:
            seeds = args.seeds or list(range(args.num or 8))
            save(named_rows(class_sheet(gan, args.classes, seeds, threshold, args.raw)), args)
        else:
            seeds = args.seeds or list(range(args.num or 64))
            label = args.classes[0] if args.classes else None
            images = gan.sample(seeds, label=label, truncation=threshold, raw=args.raw)
            save(grid(images, args.columns), args)
    else:
        files(gan, args, threshold)


def save(picture: Image.Image, args: argparse.Namespace) -> None:
    args.out.parent.mkdir(parents=True, exist_ok=True)
    picture.save(args.out)
    print(args.out)


def save_frames(frames: list[Image.Image], args: argparse.Namespace) -> None:
    save_gif(frames, args.out)
    print(f"{len(frames)} frames: {args.out}")


def files(gan: GAN, args: argparse.Namespace, threshold: float | None) -> None:
    """A PNG for each seed, or for each class and seed."""
    seeds = args.seeds or list(range(args.num or 64))
    classes: Sequence[int | None] = args.classes or [None]
    args.out.mkdir(parents=True, exist_ok=True)
    bar = tqdm(total=len(classes) * len(seeds), unit=" images", disable=None)
    for label in classes:
        start = "" if label is None else f"class{label:04d}_"
        for at in range(0, len(seeds), 64):
            part = seeds[at : at + 64]
            images = gan.sample(part, label=label, truncation=threshold, raw=args.raw)
            for seed, picture in zip(part, singles(images), strict=True):
                picture.save(args.out / f"{start}seed{seed:06d}.png")
            bar.update(len(part))
    bar.close()
    print(f"{len(classes) * len(seeds)} images: {args.out}")


if __name__ == "__main__":
    main()
