"""python -m ganzoo.runs [FOLDER]: lists the runs in a folder, how far they are and how good.

Runs side by side in one folder, as those of a sweep, are grouped. No checkpoint is read.
"""

import argparse
import json
import math
import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ganzoo.errors import UserError
from ganzoo.runs.folder import Run, natural, runs_under
from ganzoo.runs.state import STATES

COLORS = {"running": "36", "done": "32", "stopped": "33", "failed": "31"}
DIM, BOLD = "2", "1"
GAP = 2  # spaces between columns
KEYS: dict[str, Callable[[Run], Any]] = {
    "name": lambda run: natural(str(run.path)),
    "model": lambda run: run.model,
    "data": lambda run: run.data,
    "state": lambda run: STATES.index(run.state) if run.state else len(STATES),
    "kimg": lambda run: -1.0 if run.kimg is None else run.kimg,
    "left": lambda run: math.inf if run.seconds_left is None else run.seconds_left,
    # Numbers of different protocols do not compare.
    "best": lambda run: (not run.protocol, run.metric, run.protocol, run.rank),
    "time": lambda run: run.heard,
}


def main(argv: list[str] | None = None) -> None:
    """Run the command; what the user has to mend ends it with one sentence and exit code 1."""
    args = parse(argv)
    try:
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
        if args.leaderboard:
            from ganzoo.runs.leaderboard import leaderboard

            print(leaderboard(args.folder), end="")
        elif args.watch is not None:
            watch(args)
        elif args.json:
            print(as_json(args))
        else:
            print("\n".join(shown(args)))
        sys.stdout.flush()
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(0 if args.watch is not None else 130)
    except BrokenPipeError:  # as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ganzoo.runs", description=__doc__)
    parser.add_argument(
        "folder", type=Path, nargs="?", default=Path("runs"), metavar="FOLDER",
        help="where to look (default: runs)",
    )  # fmt: skip
    parser.add_argument(
        "--watch", type=_seconds, nargs="?", const=5.0, metavar="SECONDS",
        help="look again every so many seconds (default: 5) until Ctrl-C",
    )  # fmt: skip
    parser.add_argument(
        "--sort", choices=list(KEYS), default="name",
        help="within groups, and groups by their first run: best sorts by metric and protocol "
        "first, time has the newest last",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="for programs: all that is known")
    parser.add_argument(
        "--leaderboard", action="store_true",
        help="rank the runs: writes leaderboard.csv, .md and .png into FOLDER",
    )  # fmt: skip
    args = parser.parse_args(argv)
    if args.json + args.leaderboard + (args.watch is not None) > 1:
        parser.error("--watch, --json and --leaderboard do not go together")
    return args


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of seconds above 0; FOLDER comes before --watch"
        )
    return seconds


def watch(args: argparse.Namespace) -> None:
    """The list again and again, until Ctrl-C; on a terminal in its place."""
    place = sys.stdout.isatty()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    lines: list[str] = []
    try:
        if place:
            print("\033[?1049h\033[?25l", end="")  # the other screen, no cursor
        while True:
            lines = shown(args)
            if place:
                # Over what was there, in one write: nothing is blank in between.
                told = "\033[K\n".join(_fitting(lines))
                sys.stdout.write(f"\033[H{told}\033[K\033[J")
            else:
                sys.stdout.write("\n".join([*lines, "", ""]))
            sys.stdout.flush()
            time.sleep(args.watch)
    finally:
        if place:
            print("\033[?25h\033[?1049l", end="")
            print("\n".join(lines), flush=True)


def _fitting(lines: list[str]) -> list[str]:
    """As many lines as the terminal has."""
    height = max(3, shutil.get_terminal_size((100, 40)).lines)
    if len(lines) <= height:
        return lines
    hidden = len(lines) - height + 2
    return [*lines[: height - 2], f"... {hidden} more lines; --sort state, best, ...", lines[-1]]


def shown(args: argparse.Namespace) -> list[str]:
    """The list as lines for the terminal, or for 100 columns where there is none."""
    terminal = sys.stdout.isatty()
    colors = terminal and not os.environ.get("NO_COLOR")
    # The last column stays free: to write there leaves terminals in different minds.
    width = shutil.get_terminal_size((100, 40)).columns - terminal
    return lines_of(runs_under(args.folder), args.folder, args.sort, width, colors)


def as_json(args: argparse.Namespace) -> str:
    runs = sorted(runs_under(args.folder), key=KEYS[args.sort])
    told = {"folder": str(args.folder), "runs": [_plain(run) for run in runs]}
    return json.dumps(told, indent=1, allow_nan=False)


def _plain(run: Run) -> dict[str, Any]:
    """A run as JSON has it: null for what is not known, and for NaN and infinity."""
    told = {**vars(run), "name": run.name, "seconds_left": run.seconds_left}
    told |= {"path": str(run.path), "problems": list(run.problems), "about": dict(run.about)}
    for name, value in told.items():
        if value == "" or (isinstance(value, float) and not math.isfinite(value)):
            told[name] = None
    return told


# -- lines -----------------------------------------------------------------------------------------


def lines_of(
    runs: Sequence[Run], folder: Path, sort: str = "name", width: int = 100, colors: bool = False
) -> list[str]:
    """Runs as a table, those of one folder under a line of its own.

    Args:
        folder: that names begin at.
        sort: one of `KEYS`.
        width: in characters, at least 20.
        colors: with the codes of a terminal.
    """
    if not runs:
        return [_cut(f"There are no runs in {folder}.", width)]
    groups: dict[Path, list[Run]] = {}
    for run in sorted(runs, key=KEYS[sort]):
        groups.setdefault(run.path.parent, []).append(run)
    heads: dict[int, str] = {}
    rows: list[tuple[Run, list[str]]] = []
    for parent, group in groups.items():
        if len(group) > 1:
            heads[len(rows)] = f"{_clean(_name(parent, folder))}: {_counts(group, True)}"
        for run in group:
            name = f"  {run.path.name}" if len(group) > 1 else _name(run.path, folder)
            rows.append((run, [_clean(cell) for cell in (name, *_cells(run))]))
    widths = _widths([HEAD, *(cells for _, cells in rows)], max(20, width))
    lines = [_paint(_line(HEAD, widths), DIM, colors)]
    for place, (run, cells) in enumerate(rows):
        if place in heads:
            lines.append(_paint(_cut(heads[place], width), BOLD, colors))
        lines.append(_line(cells, widths, COLORS.get(run.state, "35") if colors else ""))
        why = [run.sentence] if run.sentence else []
        for sentence in (*why, *run.problems):
            indent = "    " if len(groups[run.path.parent]) > 1 else "  "
            text = _cut(indent + _clean(sentence), width, middle=False)
            lines.append(_paint(text, DIM, colors))
    return [*lines, _cut(_counts(runs, False), width)]


HEAD = ["run", "model", "data", "kimg", "state", "left", "images/s", "best"]
RIGHT = (3, 5, 6)  # columns of numbers
NARROWED = {0: 10, 1: 6, 2: 6, 7: 14}  # columns that give way, to so many characters
DROPPED = (6, 2, 1, 5, 7, 3)  # if all else fails


def _cells(run: Run) -> list[str]:
    best = "" if run.value is None else f"{run.value:.4g} {run.metric} @ {number(run.at_kimg)}"
    running = run.state == "running"
    speed = run.images_per_second if running else None
    return [
        run.model,
        run.data,
        f"{number(run.kimg)}/{number(run.total_kimg)}",
        run.state or "?",
        _duration(run.seconds_left),
        "" if speed is None else f"{speed:.3g}" if speed < 1000 else f"{speed:.0f}",
        best,
    ]


def _counts(runs: Sequence[Run], group: bool) -> str:
    """`3 of 5 done, 1 running, 1 failed`; of all: `5 runs: 1 running, 3 done, 1 failed`."""
    counts = Counter(run.state or "unknown" for run in runs)
    rest = [f"{counts[s]} {s}" for s in (*STATES, "unknown") if counts[s] and s != "done"]
    if group:
        return ", ".join([f"{counts['done']} of {len(runs)} done", *rest])
    named = [f"{counts[s]} {s}" for s in (*STATES, "unknown") if counts[s]]
    return f"{len(runs)} run{'s' * (len(runs) != 1)}: {', '.join(named)}"


def _name(path: Path, folder: Path) -> str:
    inside = path != folder and path.is_relative_to(folder)
    return str(path.relative_to(folder) if inside else path)


def number(kimg: float | None) -> str:
    """Thousands of images for people."""
    if kimg is None:
        return "?"
    return f"{kimg:.1f}".removesuffix(".0") if kimg >= 1 else f"{kimg:.3g}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    return f"{days} d {h} h" if days else f"{h}:{m:02}:{s:02}"


def _widths(rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """Of the columns, so that a line fits; 0 for one that is left out."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
    widths = [0 if not any(row[i] for row in rows[1:]) else w for i, w in enumerate(widths)]

    def excess() -> int:
        return sum(w + GAP for w in widths if w) - GAP - width

    while excess() > 0:
        if some := [i for i, least in NARROWED.items() if widths[i] > least]:
            widths[max(some, key=lambda i: widths[i])] -= 1
        elif some := [i for i in DROPPED if widths[i]]:
            widths[some[0]] = 0
        else:
            break
    return widths


def _line(cells: Sequence[str], widths: Sequence[int], color: str = "") -> str:
    parts = []
    for i, (cell, width) in enumerate(zip(cells, widths, strict=True)):
        if width:
            text = _cut(cell, width)
            space = " " * (width - len(text))
            text = _paint(text, color, bool(color) and HEAD[i] == "state")
            parts.append(space + text if i in RIGHT else text + space)
    return (" " * GAP).join(parts).rstrip()


def _cut(text: str, width: int, middle: bool = True) -> str:
    """A text in so many characters, without its middle or its end where it is longer."""
    if len(text) <= width:
        return text
    if not middle:
        return text[: width - 1] + "…"
    left = (width - 1) // 2
    return f"{text[:left]}…{text[len(text) - (width - 1 - left) :]}"


def _clean(text: str) -> str:
    """Without what would not stay on its line, or in its color."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _paint(text: str, color: str, colors: bool) -> str:
    return f"\033[{color}m{text}\033[0m" if colors else text


if __name__ == "__main__":
    main()
