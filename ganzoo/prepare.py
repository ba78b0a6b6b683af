"""python -m ganzoo.prepare: prepare data, networks and checkpoints.

pack SRC OUT packs images so that training need not decode them; weights NAME downloads a network
that metrics use; playground downloads what runs networks in a browser, by npm; import SRC OUT
converts a checkpoint of another project.
"""

import argparse
from pathlib import Path

from ganzoo import cli
from ganzoo.metrics import pretrained as weights


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    with cli.exits("prepare"):
        args.run(args)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = cli.parser("prepare", __doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    pack = commands.add_parser("pack", help="store images decoded, in one file")
    pack.set_defaults(run=run_pack)
    pack.add_argument("src", help="a folder, zip, tar or pack, or the name of a data set: celeba")
    pack.add_argument("out", type=cli.path, help="folder of the new pack; train with data=pack")
    cli.add_data(pack)
    pack.add_argument("--levels", action="store_true", help="add all smaller sizes, by box means")
    pack.add_argument("--skip-bad", action="store_true", help="leave out unreadable images")

    networks = commands.add_parser("weights", help="download a network that metrics use")
    networks.set_defaults(run=run_weights)
    networks.add_argument("name", choices=list(weights.PUBLISHED))

    browser = commands.add_parser("playground", help="download what runs networks in a browser")
    browser.set_defaults(run=run_playground)
    browser.add_argument(
        "--from", type=cli.path, dest="source", metavar="FOLDER",
        help="a folder where npm pack has put the package, instead of downloading it",
    )  # fmt: skip

    foreign = commands.add_parser("import", help="convert a checkpoint of another project")
    foreign.set_defaults(run=run_import)
    foreign.add_argument("src", type=cli.path, help="file or folder of the other project")
    foreign.add_argument("out", type=cli.path, help="the new .ckpt file")

    args, behind = parser.parse_known_args(argv)
    if behind:  # keys after options, which argparse does not expect
        if "keys" not in args or not all(key[0] != "-" and "=" in key for key in behind):
            parser.error(f"unrecognized arguments: {' '.join(behind)}")
        args.keys += behind
    return args


def run_pack(args: argparse.Namespace) -> None:
    from ganzoo.data.choosing import source_of
    from ganzoo.data.packing import write_pack

    source = source_of(args.src, args.size, args.channels, args.keys, args.config_dir)
    source.prepare()
    origin = str(Path(args.src).resolve()) if Path(args.src).exists() else " ".join(args.keys)
    skipped = write_pack(source, args.out, args.levels, args.skip_bad, args.workers, origin)
    for sentence in skipped.values():
        print(sentence)
    left_out = f" ({len(skipped)} left out, each named above)" if skipped else ""
    print(f"{args.out} is packed{left_out}: train with data=pack data.root={args.out}")


def run_weights(args: argparse.Namespace) -> None:
    print(f"{weights.fetch(args.name)} is complete and unchanged.")


def run_playground(args: argparse.Namespace) -> None:
    from ganzoo.metrics.pretrained import cache_folder
    from ganzoo.sharing.playground import runtime

    print(f"{runtime.fetch(cache_folder() / 'playground', args.source)} is complete and unchanged.")


def run_import(args: argparse.Namespace) -> None:
    from ganzoo.engine.kinds import Translating
    from ganzoo.models.imports import import_checkpoint

    gan = import_checkpoint(args.src, args.out)
    use = f"translate {args.out} SRC DST" if isinstance(gan, Translating) else f"sample {args.out}"
    print(f"{args.out} is a {type(gan).__name__}: use it with python -m ganzoo.{use}")


if __name__ == "__main__":
    main()
