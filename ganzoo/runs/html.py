"""A page that lists runs, with their newest samples and links to their own pages."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from ganzoo.disk import write_whole
from ganzoo.errors import UserError, shown
from ganzoo.pictures.web import link, newest, render
from ganzoo.runs import text
from ganzoo.runs.folder import Run

PAGE = "runs.html"


def write_page(runs: Sequence[Run], folder: Path) -> Path:
    """Write `runs.html` with the runs in this order and return its path; UserError if it fails."""
    if not runs:
        raise UserError(f"There are no runs in {folder}: give a folder that contains some.")
    path = folder / PAGE
    best = [run.path for run in sorted(runs, key=lambda run: run.rank)]
    html = render(
        "runs.html",
        script="sort.js",
        title=f"Runs in {shown(folder.resolve().name)}",
        counts=text.counts(runs),
        now=datetime.now().strftime("%Y-%m-%d %H:%M"),
        runs=[_row(run, folder, best.index(run.path)) for run in runs],
    )
    write_whole(path, html)
    return path


def _row(run: Run, folder: Path, place: int) -> dict[str, Any]:
    """What the page shows of a run, and the numbers that its columns are sorted by.

    `place` is the run's among those sorted by metric, protocol and value.
    """
    picture, page = newest(run.path / "samples"), run.path / "index.html"
    inside = run.path != folder and run.path.is_relative_to(folder)
    left = run.seconds_left
    return {
        "name": shown(str(run.path.relative_to(folder) if inside else run.path)),
        "page": link(page, folder) if page.is_file() else "",
        "picture": "" if picture is None else link(picture, folder),
        "model": run.model,
        "data": run.data,
        "kimg": "" if run.kimg is None else run.kimg,
        "of": f"{text.kimg(run.kimg)}/{text.kimg(run.total_kimg)}",
        "state": run.state,
        "seconds": "" if left is None else left,
        "left": text.duration(left),
        "rank": place if text.best(run) else "",
        "best": text.best(run),
        "newest": -run.changed,
        "changed": datetime.fromtimestamp(run.changed).strftime("%Y-%m-%d %H:%M"),
        "why": "; ".join(shown(part) for part in (run.sentence, *run.problems) if part),
    }
