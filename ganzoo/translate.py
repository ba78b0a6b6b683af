"""Translate every image of a folder into the other domain.

Names, folders and sizes are kept. Images that cannot be read are listed at the end, and the exit
code is 1.
"""

import argparse
import sys

from ganzoo import cli
from ganzoo.errors import shown


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    options = {k: v for k, v in vars(args).items() if k not in ("checkpoint", "device", "trust")}
    with cli.exits("translate"):
        from ganzoo.engine.checkpoint import load
        from ganzoo.pictures.translating import translate

        gan = load(args.checkpoint, cli.device(args.device), args.trust)
        done = translate(gan, **options)
        speed = f"{done.written / done.seconds:.1f} images/s"
        print(f"{done.written} images in {done.seconds:.1f} s ({speed}): {shown(str(args.dst))}")
        if done.ignored:
            print(f"{done.ignored} files are not images and were ignored.")
        if done.bad:
            print(f"{len(done.bad)} could not be translated:")
            for name, why in done.bad.items():
                print(f"  {shown(name)}: {shown(why)}")
            sys.exit(1)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = cli.parser("translate", __doc__)
    cli.add_checkpoint(parser)
    parser.add_argument(
        "src", type=cli.path, help="a folder with its subfolders, a zip, a tar, or one image"
    )
    parser.add_argument("dst", type=cli.path, help="a folder; for one image also a file")
    parser.add_argument("--direction", default="AtoB", help="AtoB or BtoA (%(default)s)")
    parser.add_argument(
        "--batch", type=cli.at_least(1), default=8,
        help="images of equal size to translate at once (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--png", action="store_true", help="write PNG: photo.jpg to photo.png")
    parser.add_argument(
        "--page", action="store_true", help="write index.html with all images before and after"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace existing files in DST")
    parser.add_argument(
        "--workers", type=cli.at_least(0, 256),
        help="processes that read images (one per core, at most 4)",
    )  # fmt: skip
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
