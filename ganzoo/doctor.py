"""python -m ganzoo.doctor: find out what would go wrong in training on some images.

Reads every image, prints what the images are and what is wrong with them, and draws some as the
networks would see them. Exits with 1 if there is a problem.
"""

import argparse
import sys
from pathlib import Path

from ganzoo import cli


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    with cli.exits("doctor"):
        from ganzoo.pictures.checkup import run

        if run(args):
            sys.exit(1)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = cli.parser("doctor", __doc__)
    add = parser.add_argument
    add("data", help="a folder, zip, tar or pack, or the name of a data set: celeba")
    cli.add_data(parser)
    add(
        "--sheet", type=sheet_path, default=Path("doctor.png"), metavar="FILE.png",
        help="file that shows some of the images; none for no file (%(default)s)",
    )  # fmt: skip
    return parser.parse_intermixed_args(argv)


def sheet_path(text: str) -> Path | None:
    """The path of a PNG, or None for `none`."""
    if text != "none" and Path(text).suffix.lower() != ".png":
        raise argparse.ArgumentTypeError(f"{text!r} is not a .png file and not none")
    return None if text == "none" else Path(text)


if __name__ == "__main__":
    main()
