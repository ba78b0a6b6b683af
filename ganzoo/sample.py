"""python -m ganzoo.sample: images from a checkpoint or run folder.

The same seed gives the same image, whatever else is asked for in the same call.
"""

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ganzoo.checkpoint import load
from ganzoo.errors import UserError
from ganzoo.gan import GAN
from ganzoo.pictures import grid, save_gif, singles


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
        help="grid.png: all in one picture; walk.gif with --walk; else a folder: a PNG per seed",
    )  # fmt: skip
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--num", type=int, help="seeds 0 to NUM - 1 (64 if nothing is said)")
    which.add_argument("--seeds", type=seed_list, help="seeds such as 0-63 or 1,5,8-11")
    which.add_argument(
        "--walk", type=seed_list, help="walk from seed to seed and back to the first"
    )
    parser.add_argument("--frames", type=int, default=30, help="of a walk, between two seeds")
    parser.add_argument("--columns", type=int, help="of the grid")
    parser.add_argument("--truncation", type=float, help="draw latents beyond this again")
    parser.add_argument("--raw", action="store_true", help="the generator, not its average")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args(argv)


def seed_list(text: str) -> list[int]:
    """Seeds from text such as `0-63` or `1,5,8-11`."""
    seeds: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        if not first.isdecimal() or (last and not last.isdecimal()):
            raise argparse.ArgumentTypeError(f"{text!r} is no list of seeds such as 0-63 or 1,5,9")
        seeds += range(int(first), int(last or first) + 1)
    if not seeds:
        raise argparse.ArgumentTypeError(f"{text!r} holds no seed: the larger number comes last")
    return seeds


def run(args: argparse.Namespace) -> None:
    """Do what the command line asks for. Raises `UserError` for what cannot be done."""
    gif = args.out.suffix.lower() == ".gif"
    if gif != (args.walk is not None):
        raise UserError(
            "A walk is written to a .gif: give --walk and --out something.gif together."
        )
    if min(n for n in (args.num, args.frames, args.columns) if n is not None) < 1:
        raise UserError("--num, --frames and --columns must be at least 1.")
    if args.truncation is not None and args.truncation <= 0:
        raise UserError("--truncation must be greater than 0: latents are drawn until they fit.")
    try:
        torch.empty(0, device=args.device)
    except (RuntimeError, AssertionError) as error:  # so torch says that there is none
        raise UserError(f"--device {args.device} is not to be had: give cpu or cuda.") from error
    gan = load(args.checkpoint, args.device)
    if gif:
        frames = walk(gan, args.walk, args.frames, args.truncation, args.raw)
        save_gif(singles(frames), args.out)
        print(f"{len(frames)} frames: {args.out}")
        return
    seeds = args.seeds or list(range(args.num or 64))
    if args.out.suffix.lower() == ".png":
        images = gan.sample(seeds, truncation=args.truncation, raw=args.raw)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        grid(images, args.columns).save(args.out)
    else:
        args.out.mkdir(parents=True, exist_ok=True)
        bar = tqdm(total=len(seeds), unit=" images", disable=None)
        for start in range(0, len(seeds), 64):
            part = seeds[start : start + 64]
            images = gan.sample(part, truncation=args.truncation, raw=args.raw)
            for seed, picture in zip(part, singles(images), strict=True):
                picture.save(args.out / f"seed{seed:06d}.png")
            bar.update(len(part))
        bar.close()
    print(f"{len(seeds)} images: {args.out}")


def walk(
    gan: GAN, seeds: list[int], frames: int, truncation: float | None = None, raw: bool = False
) -> Tensor:
    """Images on the way from each seed to the next and from the last to the first.

    The way is the great circle between latents, as suits a Gaussian (White 2016): [len(seeds) *
    frames, C, H, W] in [-1, 1].
    """
    ends = gan.latents(seeds, truncation)
    t = torch.arange(frames, device=ends.device, dtype=ends.dtype) / frames
    legs = [slerp(a, b, t) for a, b in zip(ends, ends.roll(-1, 0), strict=True)]
    return torch.cat([gan.images(leg, raw) for leg in tqdm(legs, unit=" legs", disable=None)])


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Spherical interpolation of two vectors [D] at the shares t [T] of the way: [T, D]."""
    cosine = torch.dot(a, b) / (a.norm() * b.norm()).clamp_min(1e-12)
    angle = torch.acos(cosine.clamp(-1, 1))
    t = t[:, None]
    if angle.sin() < 1e-6:  # the same direction, or opposite ones: no great circle is told apart
        return torch.lerp(a.expand(len(t), -1), b.expand(len(t), -1), t)
    return (((1 - t) * angle).sin() * a + (t * angle).sin() * b) / angle.sin()


if __name__ == "__main__":
    main()
