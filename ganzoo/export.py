"""Write a trained model to a folder that describes itself, and push it to the Hugging Face Hub.

The folder has the weights and a config for ganzoo.load, a model card with samples, and, if asked
for, graphs that run without ganzoo. Every file is compared with the model; one that differs by more
than 1e-4 is deleted again, and the exit code is 1.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from ganzoo import cli
from ganzoo.errors import UserError


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    with cli.exits("export"):
        run(args)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = cli.parser("export", __doc__)
    add = parser.add_argument
    cli.add_checkpoint(parser, device=False)
    add("out", type=cli.path, nargs="?", help="the new folder; optional with --push")
    add("--onnx", action="store_true", help="add graphs for ONNX")
    add("--pt2", action="store_true", help="add graphs for torch.export.load")
    add("--directions", nargs="+", help="of a model that translates: AtoB, BtoA")
    add(
        "--size", nargs=2, type=cli.at_least(8), metavar=("H", "W"),
        help="largest size to compare translations at (that of the training images)",
    )  # fmt: skip
    add(
        "--samples", nargs="+", metavar="PHOTOS",
        help="images to translate for the card: a file or folder for each direction; by default, "
        "test images of a data set that anybody can have",
    )  # fmt: skip
    add("--half", action="store_true", help="round weights to float16")
    add("--push", type=cli.text, metavar="USER/NAME", help="push the folder to the Hub")
    add("--private", action="store_true", help="make a new repository private")
    args = parser.parse_args(argv)
    if args.out is None and args.push is None:
        parser.error("give OUT, --push USER/NAME, or both")
    if args.private and args.push is None:
        parser.error("--private needs --push")
    return args


def run(args: argparse.Namespace) -> None:
    """Export and push what the command line asks for."""
    from ganzoo.runs.sharing import PARITY, Options, export
    from ganzoo.sharing import artifacts, hub

    if args.push:
        hub.check_repository(args.push)
        hub.check_token()
    kinds = [kind for kind in artifacts.KINDS if vars(args)[kind]]
    size = None if args.size is None else tuple(args.size)
    options = Options(
        kinds, args.directions, size, args.half, args.raw, args.trust, args.push or "",
        args.samples or (),
    )  # fmt: skip
    with TemporaryDirectory() as temporary:
        out = args.out or Path(temporary) / args.push.rpartition("/")[2]
        parity = export(args.checkpoint, out, options)
        for name, found in parity.items():
            size_of = f"{found['bytes'] / 2**20:.1f} MiB"
            print(f"{name}: {size_of}, largest difference {found['largest_difference']:.2g}")
        if wrong := [name for name, found in parity.items() if found["deleted"]]:
            raise UserError(
                f"{' and '.join(wrong)} differed from the model by more than {artifacts.LIMIT:g} "
                f"and was deleted{', and nothing was pushed' if args.push else ''}: see {PARITY}."
            )
        if args.push:
            names = sorted(file.name for file in out.iterdir())
            print(hub.push(out, names, args.push, args.private))
    if args.out:
        print(args.out)


if __name__ == "__main__":
    main()
