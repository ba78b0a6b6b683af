"""Runs as a table on the terminal; the runs of one folder, such as a sweep, under its name."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from ganzoo.errors import shown
from ganzoo.runs import text
from ganzoo.runs.folder import Run, natural
from ganzoo.runs.state import STATES

COLORS = {"running": "cyan", "done": "green", "stopped": "yellow", "failed": "red"}
ORDERS: dict[str, Callable[[Run], Any]] = {
    "newest": lambda run: (run.state != "running", -run.changed),
    "name": lambda run: natural(str(run.path)),
    "model": lambda run: run.model,
    "data": lambda run: run.data,
    "state": lambda run: STATES.index(run.state) if run.state else len(STATES),
    "kimg": lambda run: -1.0 if run.kimg is None else run.kimg,
    "left": lambda run: math.inf if run.seconds_left is None else run.seconds_left,
    # Only values of the same protocol can be compared.
    "best": lambda run: run.rank,
}
COLUMNS = ("run", "model", "data", "kimg", "state", "left", "images/s", "best")
RIGHT = ("kimg", "left", "images/s")
DROPPED = ("model", "data", "left", "images/s")  # if there is not enough room for all
WHY = 16  # characters of the last column, at least


def table(
    runs: Sequence[Run],
    folder: Path,
    sort: str = "newest",
    width: int = 100,
    rows: int | None = None,
) -> Group:
    """All runs, a line each; below the last one how many are in each state.

    Args:
        folder: the folder that names are relative to.
        sort: the order within groups, one of `ORDERS`; groups are sorted by their first run.
        width: width of the terminal in characters.
        rows: most lines of the table, for which long sentences are cut; None for all.
    """
    if not runs:
        return Group(Text(f"There are no runs in {folder}."))
    lines = list(_lines(sorted(runs, key=ORDERS[sort]), folder, max(10, width // 3)))
    used = _used(lines, width)
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for i in used:
        name = COLUMNS[i]
        last = name == "best"  # also says why a run failed, so it may take several lines
        grid.add_column(
            name,
            justify="right" if name in RIGHT else "left",
            no_wrap=rows is not None or not last,
            overflow="fold" if last and rows is None else "ellipsis",
            min_width=WHY if last else None,
        )
    for line in lines[:rows]:
        grid.add_row(*(line[i] for i in used))
    hidden = len(lines) - len(lines[:rows])
    more = [Text(f"... {hidden} more lines: try --sort state", style="dim")] if hidden else []
    plural = "" if len(runs) == 1 else "s"
    return Group(grid, *more, Text(f"{len(runs)} run{plural}: {text.counts(runs)}"))


def _used(lines: Sequence[Sequence[Text]], width: int) -> list[int]:
    """The columns to show: those with any text, and on a narrow terminal not the `DROPPED`."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    needed = sum(max(w, len(name)) + 2 for w, name in zip(widths[:-1], COLUMNS, strict=False) if w)
    dropped = DROPPED if needed + WHY > width else ()
    return [i for i, name in enumerate(COLUMNS) if widths[i] and name not in dropped]


def _lines(runs: Sequence[Run], folder: Path, width: int) -> Iterator[list[Text]]:
    """The cells of each line; a folder with several runs has a line of its own above them."""
    groups: dict[Path, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.path.parent, []).append(run)
    for parent, group in groups.items():
        many = len(group) > 1
        if many:
            name = text.cut(shown(_name(parent, folder)), width)
            head = [name, *[""] * (len(COLUMNS) - 2), text.counts(group)]
            yield [Text(cell, style="bold") for cell in head]
        for run in group:
            name = f"  {run.path.name}" if many else _name(run.path, folder)
            yield [Text(text.cut(shown(name), width)), *_cells(run)]


def _cells(run: Run) -> list[Text]:
    running = run.state == "running"
    why = [part for part in (text.best(run), run.sentence, *run.problems) if part]
    cells = [
        text.cut(run.model, 16),
        text.cut(run.data, 16),
        f"{text.kimg(run.kimg)}/{text.kimg(run.total_kimg)}",
        run.state or "?",
        text.duration(run.seconds_left),
        text.speed(run.images_per_second) if running else "",
        "; ".join(why),
    ]
    styles = {COLUMNS.index("state") - 1: COLORS.get(run.state, "magenta")}
    return [Text(shown(cell), style=styles.get(i, "")) for i, cell in enumerate(cells)]


def _name(path: Path, folder: Path) -> str:
    inside = path != folder and path.is_relative_to(folder)
    return str(path.relative_to(folder) if inside else path)
