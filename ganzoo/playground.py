"""Make a web page that runs a trained model in the visitor's browser.

With OUT, write the page to a folder for any web server, or to one file with --single-file. Without
OUT, show the page on this machine until Ctrl-C.
"""

import argparse
import signal
from pathlib import Path
from tempfile import TemporaryDirectory

from ganzoo import cli
from ganzoo.sample import thresholds


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    with cli.exits("playground"):
        run(args)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = cli.parser("playground", __doc__)
    add = parser.add_argument
    cli.add_checkpoint(parser, device=False)
    add("out", type=cli.path, nargs="?", help="a new folder, or NAME.html (one file)")
    add("--single-file", action="store_true", help="write OUT as one HTML file")
    add("--title", help="title of the page")
    add("--license", help="license of the model, such as 'CC BY 4.0'")
    add("--truncations", type=thresholds, help="steps of the slider of variety, such as 0.5,1,none")
    add("--directions", nargs="+", help="of a model that translates: AtoB, BtoA")
    add(
        "--domains", nargs=2, default=("A", "B"), metavar=("A", "B"),
        help="what to call the two domains, such as horses zebras",
    )  # fmt: skip
    add("--examples", type=cli.path, metavar="FOLDER", help="photos for visitors to start with")
    add("--port", type=cli.at_least(0), default=0, help="without OUT (any)")
    add("--no-browser", action="store_true", help="without OUT: open no browser")
    args = parser.parse_args(argv)
    args.single_file |= args.out is not None and args.out.suffix.lower() == ".html"
    if args.single_file and args.out is None:
        parser.error("--single-file needs OUT")
    return args


def run(args: argparse.Namespace) -> None:
    """Write or show the page that the command line asks for."""
    from ganzoo.runs.playing import Options, build, check_free, write_page

    names = ("title", "license", "truncations", "directions", "examples", "raw", "trust")
    options = Options(**{n: vars(args)[n] for n in names}, domains=tuple(args.domains))
    if args.out:
        check_free(args.out, args.single_file)
        page = build(args.checkpoint, options)
        print(write_page(page, args.out, args.single_file))
        return
    with TemporaryDirectory() as temporary:
        write_page(build(args.checkpoint, options), Path(temporary) / "page", single=False)
        serve(Path(temporary) / "page", args.port, not args.no_browser)


def serve(folder: Path, port: int, browser: bool) -> None:
    """Serve a page on this machine until Ctrl-C or SIGTERM."""
    from ganzoo.sharing.playground import server

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with server.server(folder, port) as serving:
        print(f"{server.address(serving)} (Ctrl-C ends it)", flush=True)
        if browser:
            server.show(server.address(serving))
        try:
            serving.serve_forever()
        except KeyboardInterrupt:
            print()


if __name__ == "__main__":
    main()
