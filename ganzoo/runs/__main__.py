"""List the runs in a folder: how far they are, how good, and why some have ended.

Runs of one folder, such as those of a sweep, are grouped. No checkpoint is read.
"""

import argparse
import json
import math
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganzoo import cli
from ganzoo.runs.folder import Run, runs_under
from ganzoo.runs.table import ORDERS, table

if TYPE_CHECKING:
    from rich.console import Console

FRAME = 4  # lines of the screen that the table leaves to its head and the counts


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    with cli.exits("runs"):
        if args.leaderboard:
            from ganzoo.runs.leaderboard import leaderboard

            print(leaderboard(args.folder), end="")
        elif args.html:
            from ganzoo.runs.html import write_page

            runs = sorted(runs_under(args.folder), key=ORDERS[args.sort])
            print(write_page(runs, args.folder))
        elif args.json:
            print(as_json(args))
        else:
            from rich.console import Console

            # Without a terminal, as in a pipe: 100 columns.
            console = Console(width=shutil.get_terminal_size((100, 40)).columns, highlight=False)
            if args.watch is None:
                console.print(table(runs_under(args.folder), args.folder, args.sort, console.width))
            else:
                watch(args, console)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = cli.parser("runs", __doc__)
    parser.add_argument(
        "folder", type=cli.path, nargs="?", default=Path("runs"), metavar="FOLDER",
        help="the folder with the runs (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--sort", choices=list(ORDERS), default="newest",
        help="order within groups, and of groups by their first run: newest starts with what is "
        "running, best sorts by metric and protocol first (%(default)s)",
    )  # fmt: skip
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--watch", type=_seconds, nargs="?", const=5.0, metavar="SECONDS",
        help="update the list every SECONDS (5) until Ctrl-C",
    )  # fmt: skip
    what.add_argument(
        "--html", action="store_true",
        help="write FOLDER/runs.html: a page with a picture of each run, to sort by a click",
    )  # fmt: skip
    what.add_argument("--json", action="store_true", help="print everything, for programs")
    what.add_argument(
        "--leaderboard", action="store_true",
        help="rank the runs: writes leaderboard.csv, .md and .png into FOLDER",
    )  # fmt: skip
    return parser.parse_args(argv)


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(
        f"{text!r} is not a number of seconds; FOLDER comes before --watch"
    )


def watch(args: argparse.Namespace, console: "Console") -> None:
    """Show the list again and again until Ctrl-C, on a terminal in place."""
    from rich.live import Live

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))

    def now(rows: int | None) -> Any:
        return table(runs_under(args.folder), args.folder, args.sort, console.width, rows)

    try:
        if not console.is_terminal:
            while True:
                console.print(now(None), "")
                time.sleep(args.watch)
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                live.update(now(max(1, console.height - FRAME)), refresh=True)
                time.sleep(args.watch)
    except KeyboardInterrupt:  # the way to end it
        if console.is_terminal:
            console.print(now(None))


def as_json(args: argparse.Namespace) -> str:
    runs = sorted(runs_under(args.folder), key=ORDERS[args.sort])
    content = {"folder": str(args.folder), "runs": [_plain(run) for run in runs]}
    return json.dumps(content, indent=1, allow_nan=False)


def _plain(run: Run) -> dict[str, Any]:
    """A run for JSON: null for everything unknown, NaN and infinity."""
    row = {**vars(run), "name": run.name, "seconds_left": run.seconds_left}
    row |= {"path": str(run.path), "about": dict(run.about)}
    scores = [{key: _known(value) for key, value in vars(s).items()} for s in run.scores]
    return {name: _known(value) for name, value in row.items()} | {"scores": scores}


def _known(value: Any) -> Any:
    unknown = value == "" or (isinstance(value, float) and not math.isfinite(value))
    return None if unknown else value


if __name__ == "__main__":
    main()
