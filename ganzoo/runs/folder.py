"""Run folders seen from outside: found, and read without loading a checkpoint."""

import csv
import os
import re
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ganzoo.errors import UserError
from ganzoo.runs import state as states
from ganzoo.runs.scores import Score, scores_of, unreadable
from ganzoo.runs.state import State, read_state

# A folder that contains one of these is a run folder.
MARKS = frozenset((states.FILE, "train.log", "config.yaml", "metrics.csv", "last.ckpt"))
SPEED = "speed/images_per_second"  # in metrics.csv
TAIL = 4096  # bytes to read first from the end of metrics.csv


@dataclass(frozen=True)
class Run:
    """What is known of a run."""

    path: Path
    state: str = ""  # one of `ganzoo.runs.state.STATES`; empty if unknown
    sentence: str = ""  # why the run stopped or failed
    about: Mapping[str, Any] = field(default_factory=dict)  # names and keys; see `State`
    model: str = ""
    data: str = ""
    kimg: float | None = None  # thousands of images seen so far
    total_kimg: float | None = None
    images_per_second: float | None = None  # median of the last five ticks
    scores: tuple[Score, ...] = ()  # reached by each protocol, that of the training first
    changed: float = 0.0  # when files last changed, in seconds since 1970
    problems: tuple[str, ...] = ()  # sentences about files that cannot be read

    @property
    def name(self) -> str:
        return str(self.about.get("name") or self.path.name)

    @property
    def seconds_left(self) -> float | None:
        """Seconds left at the recent speed, excluding metrics; None unless the run is running."""
        if self.state != "running" or not self.images_per_second:
            return None
        if self.kimg is None or self.total_kimg is None:
            return None
        return max(0.0, self.total_kimg - self.kimg) * 1000 / self.images_per_second

    @property
    def rank(self) -> tuple[bool, str, str, float]:
        """A key to sort by, the best first among those of the same metric and protocol."""
        score = self.scores[0] if self.scores else Score()
        return not score.protocol, score.metric, score.protocol, score.order


def runs_under(folder: Path) -> list[Run]:
    """All runs in a folder and its subfolders, by name; `seed-2` comes before `seed-10`.

    Folders that cannot be read are included, each with its problem.

    Raises UserError: there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: give the folder of your runs, or of a sweep.")
    found = [look(path) if error is None else error for path, error in _walk(folder)]
    return sorted(found, key=lambda run: natural(str(run.path)))


def _walk(root: Path) -> Iterator[tuple[Path, Run | None]]:
    """Run folders; a folder that cannot be read comes as a run with a problem."""
    locked: list[OSError] = []
    here, links = Path(os.path.realpath(root)), set[str]()

    def is_new(folder: str) -> bool:
        """Whether a folder is to be entered: links only once, and if they lead elsewhere."""
        if not os.path.islink(folder):
            return True
        target = os.path.realpath(folder)
        known = target in links or Path(target).is_relative_to(here) or here.is_relative_to(target)
        links.add(target)
        return not known

    for path, folders, files in os.walk(root, onerror=locked.append, followlinks=True):
        if MARKS.intersection((*folders, *files)):
            folders.clear()
            yield Path(path), None
        folders[:] = [f for f in folders if f[0] != "." and is_new(os.path.join(path, f))]
    for error in locked:
        if not isinstance(error, FileNotFoundError):  # deleted in the meantime
            problem = f"cannot be read ({error.strerror})"
            yield Path(error.filename), Run(Path(error.filename), problems=(problem,))


def natural(text: str) -> list[tuple[int, str]]:
    """A key that sorts names with the numbers in them as numbers."""
    parts = re.split(r"(\d+)", text)
    return [(int(part), "") if part.isdecimal() else (0, part) for part in parts]


def look(path: Path) -> Run:
    """Everything a run folder says; a file that cannot be read is a problem of the run."""
    problems: list[str] = []
    try:
        state = read_state(path) or State("", f"there is no {states.FILE}")
        run = Run(path, state.state, state.sentence, state.about, changed=_changed(path))
        for part in FILES:
            try:
                run = replace(run, **part(path))
            except FileNotFoundError:
                continue
            except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
                problems.append(unreadable(FILES[part], error))
        scores, unread = scores_of(path)
        run, problems = replace(run, scores=tuple(scores)), [*problems, *unread]
    except OSError as error:
        return Run(path, problems=(f"cannot be read ({error.strerror})",))
    if not path.is_dir():
        return Run(path, problems=("was deleted in the meantime",))
    named = {key: str(run.about.get(key) or "") for key in ("model", "data")}
    run = replace(run, model=named["model"] or run.model, data=named["data"] or run.data)
    if run.state == "done" and run.total_kimg is not None:
        run = replace(run, kimg=run.total_kimg)
    if not (path / "config.yaml").is_file() and run.state != "running" and not run.sentence:
        problems.append("there is no config.yaml")
    return replace(run, problems=tuple(problems))


def _changed(path: Path) -> float:
    times = [0.0]
    for name in MARKS:
        try:
            times.append((path / name).stat().st_mtime)
        except FileNotFoundError:
            continue
    return max(times)


def _of_config(path: Path) -> dict[str, Any]:
    # By lines: YAML takes milliseconds to parse, and this file always has the same layout.
    text = (path / "config.yaml").read_text(encoding="utf-8")
    found: dict[str, Any] = {}
    if model := re.search(r"^model:\n(?: .*\n)*?  _target_: (\S+)$", text, re.MULTILINE):
        found["model"] = model[1].rpartition(".")[2]
    if data := re.search(r"^data:\n(?: .*\n)*?    _target_: (\S+)$", text, re.MULTILINE):
        found["data"] = data[1].rpartition(".")[2]
    total = re.search(r"^total_kimg: (\S+)$", text, re.MULTILINE)
    if total is None:
        raise ValueError("there is no total_kimg in it")
    return found | {"total_kimg": float(total[1])}


def _of_csv(path: Path) -> dict[str, Any]:
    rows = last_rows(path / "metrics.csv")
    if not rows:
        return {}
    speeds = [float(row[SPEED]) for row in rows if row.get(SPEED)]
    found = {"kimg": max(int(row["images_seen"]) for row in rows) / 1000}
    return found | ({"images_per_second": statistics.median(speeds[-5:])} if speeds else {})


FILES = {_of_config: "config.yaml", _of_csv: "metrics.csv"}


def last_rows(path: Path) -> list[dict[str, str]]:
    """The last complete rows of a `metrics.csv`, including the last tick if there is any."""
    with path.open("rb") as file:
        header = file.readline()
        end = file.seek(0, os.SEEK_END)
        size = TAIL
        while True:
            start = max(len(header), end - size)
            file.seek(start)
            lines = file.read(end - start).split(b"\n")[:-1]
            found = [line.decode() for line in (header, *lines[start > len(header) :])]
            rows = [row for row in csv.DictReader(found) if None not in row.values()]
            if start == len(header) or any(row.get(SPEED) for row in rows):
                return rows
            size *= 4
