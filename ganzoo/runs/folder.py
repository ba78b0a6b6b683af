"""Run folders as they look from outside: found, and read without loading a checkpoint."""

import csv
import json
import math
import os
import re
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ganzoo.errors import UserError
from ganzoo.runs import state as states
from ganzoo.runs.state import SILENCE, State, read_state

# Each of these makes a folder a run folder.
MARKS = frozenset((states.FILE, "train.log", "config.yaml", "metrics.csv", "last.ckpt"))
SPEED = "speed/images_per_second"  # in metrics.csv
TAIL = 4096  # bytes of the end of a file that are looked at first
# Metrics of which more is better, in files that do not say so themselves.
HIGHER = frozenset(("is", "precision", "recall", "density", "coverage", "psnr", "ssim"))


@dataclass(frozen=True)
class Run:
    """What is known of a run.

    Attributes:
        path: of its folder.
        state: one of `ganzoo.runs.state.STATES`, empty where it cannot be told.
        sentence: why it stopped or failed.
        about: as in `ganzoo.runs.state.State`.
        kimg, total_kimg: thousands of images that it has seen, and is to see.
        images_per_second: median of the last five ticks.
        metric, value, at_kimg: the monitored metric, its best value and when that was.
        higher_is_better: of the metric.
        protocol: of the metric, by its eight digits.
        heard: when its files were last written, in seconds since 1970.
        problems: sentences on files that could not be read.
    """

    path: Path
    state: str = ""
    sentence: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""
    data: str = ""
    kimg: float | None = None
    total_kimg: float | None = None
    images_per_second: float | None = None
    metric: str = ""
    value: float | None = None
    at_kimg: float | None = None
    higher_is_better: bool = False
    protocol: str = ""
    heard: float = 0.0
    problems: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return str(self.about.get("name") or self.path.name)

    @property
    def seconds_left(self) -> float | None:
        """Of a run that is running, at its speed of late; metrics come on top."""
        if self.state != "running" or not self.images_per_second:
            return None
        if self.kimg is None or self.total_kimg is None:
            return None
        return max(0.0, self.total_kimg - self.kimg) * 1000 / self.images_per_second

    @property
    def rank(self) -> float:
        """Less is better; infinite where there is no number."""
        if self.value is None or not math.isfinite(self.value):
            return math.inf
        return -self.value if self.higher_is_better else self.value


def runs_under(folder: Path) -> list[Run]:
    """All runs in a folder and those in it, by name; `seed-2` comes before `seed-10`.

    What cannot be read is there, too, with its problem.

    Raises:
        UserError: there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(
            f"{folder} is no folder: give the one that runs lie in, such as runs, or a sweep's."
        )
    found = [look(path) if error is None else error for path, error in _walk(folder)]
    return sorted(found, key=lambda run: natural(str(run.path)))


def _walk(root: Path) -> Iterator[tuple[Path, Run | None]]:
    """Run folders, and folders that cannot be read as a run with a problem."""
    links: set[str] = set()
    here = Path(os.path.realpath(root))
    folders = [root]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(folder) as entries:
                inside = list(entries)
        except FileNotFoundError:
            continue  # deleted since it was seen
        except OSError as error:
            yield folder, Run(folder, problems=(f"cannot be read ({error.strerror})",))
            continue
        if any(entry.name in MARKS for entry in inside):
            yield folder, None
            continue
        for entry in inside:
            if entry.name.startswith("."):
                continue
            try:
                if not entry.is_dir():
                    continue
            except OSError:  # a link to itself
                continue
            if entry.is_symlink():
                target = os.path.realpath(entry.path)
                if target in links or Path(target).is_relative_to(here):
                    continue
                if here.is_relative_to(target):
                    continue
                links.add(target)
            folders.append(Path(entry.path))


def natural(text: str) -> list[tuple[int, str]]:
    """A key to sort names by, the numbers in them as numbers."""
    parts = re.split(r"(\d+)", text)
    return [(int(part), "") if part.isdecimal() else (0, part) for part in parts]


def look(path: Path) -> Run:
    """What a run folder tells; what it does not is left empty, with the problem."""
    problems: list[str] = []
    try:
        state = read_state(path) or _untold(path)
        run = Run(path, state.state, state.sentence, state.about, heard=_heard(path))
        for part in (_of_config, _of_csv, _of_metrics):
            try:
                run = replace(run, **part(path))
            except FileNotFoundError:
                continue
            except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
                why = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
                problems.append(f"{FILES[part]} cannot be read ({why})")
    except OSError as error:
        return Run(path, problems=(f"cannot be read ({error.strerror})",))
    if not path.is_dir():
        return Run(path, problems=("was deleted while it was looked at",))
    named = {key: str(run.about.get(key) or "") for key in ("model", "data")}
    run = replace(run, model=named["model"] or run.model, data=named["data"] or run.data)
    if run.state == "done" and run.total_kimg is not None:
        run = replace(run, kimg=run.total_kimg)
    if run.state == "stopped" and not run.sentence:
        run = replace(run, sentence="ended before it was complete")
    if not (path / "config.yaml").is_file() and run.state != "running" and not run.sentence:
        problems.append("there is no config.yaml")
    return replace(run, problems=tuple(problems))


def _heard(path: Path) -> float:
    times = [0.0]
    for name in MARKS:
        try:
            times.append((path / name).stat().st_mtime)
        except FileNotFoundError:
            continue
    return max(times)


def _untold(path: Path) -> State:
    """The state of a run of an older version, which left no `state.json`, by its other files."""
    if (path / "done").is_file():
        return State("done")
    log = path / "train.log"
    if not log.is_file():
        return State("", "there is neither a state.json nor a train.log")
    lines = _tail(log).decode(errors="replace").strip().splitlines() or [""]
    last = re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", "", lines[-1])
    if last.startswith(("stopped by ", "dry run: ")):
        return State("stopped", last)
    if time.time() - log.stat().st_mtime < SILENCE:
        return State("running")
    return State("stopped" if (path / "last.ckpt").is_file() else "failed", f"last words: {last}")


def _of_config(path: Path) -> dict[str, Any]:
    # By lines, since YAML takes milliseconds to parse; it was written by this program.
    text = (path / "config.yaml").read_text(encoding="utf-8")
    told: dict[str, Any] = {}
    if model := re.search(r"^model:\n(?: .*\n)*?  _target_: (\S+)$", text, re.MULTILINE):
        told["model"] = model[1].rpartition(".")[2]
    if data := re.search(r"^data:\n(?: .*\n)*?    _target_: (\S+)$", text, re.MULTILINE):
        told["data"] = data[1].rpartition(".")[2]
    total = re.search(r"^total_kimg: (\S+)$", text, re.MULTILINE)
    if total is None:
        raise ValueError("there is no total_kimg in it")
    return told | {"total_kimg": float(total[1])}


def _of_csv(path: Path) -> dict[str, Any]:
    rows = last_rows(path / "metrics.csv")
    if not rows:
        return {}
    speeds = [float(row[SPEED]) for row in rows if row.get(SPEED)]
    told = {"kimg": max(int(row["images_seen"]) for row in rows) / 1000}
    return told | ({"images_per_second": statistics.median(speeds[-5:])} if speeds else {})


def _of_metrics(path: Path) -> dict[str, Any]:
    told = json.loads((path / "metrics.json").read_text())
    name, best = told["monitor"], told["best"]
    return {
        "metric": str(name),
        "value": float(best["value"]),
        "at_kimg": best["images_seen"] / 1000,
        "higher_is_better": higher_is_better(told),
        "protocol": str(told["evaluations"][-1]["protocol"]),
    }


FILES = {_of_config: "config.yaml", _of_csv: "metrics.csv", _of_metrics: "metrics.json"}


def higher_is_better(told: Mapping[str, Any]) -> bool:
    """Of the monitored metric in a `metrics.json`; by its name where the file does not say."""
    if "higher_is_better" in told:
        return bool(told["higher_is_better"])
    return told["monitor"].rpartition("/")[2].partition("_")[0] in HIGHER


def last_rows(path: Path) -> list[dict[str, str]]:
    """The last rows of a `metrics.csv`, with at least one of a tick if there is any.

    A row that is not written to its end is left out.
    """
    with path.open("rb") as file:
        header = file.readline()
        end = file.seek(0, os.SEEK_END)
        size = TAIL
        while True:
            start = max(len(header), end - size)
            file.seek(start)
            lines = file.read(end - start).split(b"\n")[:-1]
            told = [line.decode() for line in (header, *lines[start > len(header) :])]
            rows = [row for row in csv.DictReader(told) if None not in row.values()]
            if start == len(header) or any(row.get(SPEED) for row in rows):
                return rows
            size *= 4


def _tail(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
        return file.read()
