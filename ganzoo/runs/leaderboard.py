"""The leaderboard of a folder of runs: leaderboard.csv, leaderboard.md and leaderboard.png."""

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from ganzoo.disk import whole, write_whole
from ganzoo.errors import UserError, shown
from ganzoo.metrics.protocol import sentences, without_names
from ganzoo.pictures.thumbnails import Row, picture_of, samples_of
from ganzoo.runs.differences import differences, flatten, read_config, short_names
from ganzoo.runs.folder import runs_under
from ganzoo.runs.ranking import Entry, Group, entries_of, groups_of, tables_of
from ganzoo.runs.text import kimg, speed

MOST = 64  # runs in the picture
NAMED = 6  # differences between protocols to name
SHOWN = 8  # keys to show in the tables


def leaderboard(folder: Path) -> str:
    """Rank the runs in a folder; write `leaderboard.csv`, `.md` and `.png` there.

    There is no picture if no run has samples.

    Returns:
        the text of `leaderboard.md`.

    Raises:
        UserError: there are no runs, or the folder cannot be written to.
    """
    runs = runs_under(folder)
    if not runs:
        raise UserError(f"There are no runs in {folder}: give a folder that contains some.")
    configs = [read_config(run.path) for run in runs]
    differing = differences(runs, configs)
    entries = [e for each in zip(runs, differing, strict=True) for e in entries_of(*each)]
    tables, rest = tables_of(entries)
    rows = picture_rows(tables, rest)
    text = markdown(folder, tables, rest, bool(rows))
    write_whole(folder / "leaderboard.csv", csv_of([*chain(*tables), *rest]))
    if rows:
        with whole(folder / "leaderboard.png") as partial:
            picture_of(rows).save(partial, "PNG")
    else:
        (folder / "leaderboard.png").unlink(missing_ok=True)  # left by an earlier call
    write_whole(folder / "leaderboard.md", text)
    return text


# -- text ------------------------------------------------------------------------------------------


def csv_of(entries: Sequence[Entry]) -> str:
    """A row for each run and protocol; ranks start again with each protocol."""
    keys = _keys(entries)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        ["rank", "run", *keys, "metric", "higher_is_better", "best", "at_kimg", "final", "floor",
         "kimg", "of_kimg", "images_per_second", "state", "protocol", "path", "sentence"]
    )  # fmt: skip
    for e in entries:
        numbers = [e.best, e.at_kimg, e.final, e.floor]
        writer.writerow(
            ["" if e.rank is None else e.rank, e.run.name, *(e.differs.get(k, "") for k in keys),
             e.metric, e.up if e.metric else "", *(_exact(n) for n in numbers),
             *(_exact(n) for n in (e.run.kimg, e.run.total_kimg, e.run.images_per_second)),
             e.run.state, e.protocol, e.run.path, _why(e)]
        )  # fmt: skip
    return file.getvalue()


def markdown(
    folder: Path, tables: Sequence[Sequence[Entry]], rest: Sequence[Entry], picture: bool = True
) -> str:
    """A table for each metric and protocol, and the runs that are incomplete or have no value."""
    entries = [*chain(*tables), *rest]
    keys = _keys(entries)
    states = {e.run.path: e.run.state for e in entries}
    done = sum(state == "done" for state in states.values())
    parts = [f"# Runs in {_cell(str(folder))}", f"{done} of {len(states)} runs are complete."]
    if picture:
        parts.append("![Samples of each run](leaderboard.png)")
    if not tables:
        parts.append("No run has a value yet: none of them has been evaluated.")
    for table in tables:
        first = table[0]
        better = "higher" if first.up else "lower"
        parts.append(f"## {_cell(first.metric)}, {better} is better, protocol {first.protocol}")
        if table is not tables[0]:
            parts.append(_unlike(tables[0][0], first))
        facts = [line.split(": ", 1) for line in sentences(first.protocol, first.facts)]
        parts += [f"{_capital(_cell(name))}: {_cell(fact)}." for name, fact in facts]
        parts.append(_table(table, keys[:SHOWN]))
        if any(e.run.state != "done" for e in table):
            parts.append("\\* incomplete")
        if len(keys) > SHOWN:
            parts.append(f"{len(keys) - SHOWN} more keys differ: see leaderboard.csv.")
        if groups := groups_of(table):
            parts += ["Complete runs that differ only in the seed:", _group_table(groups, first)]
    others = {e.run.path: e for e in entries if e.rank is None or e.run.state != "done"}
    if others:
        parts.append("## Incomplete, or without a value")
        parts.append("\n".join(map(_line, others.values())))
    return "\n\n".join(parts) + "\n"


def _table(table: Sequence[Entry], keys: Sequence[str]) -> str:
    shorts = short_names(keys)
    floor = any(not math.isnan(e.floor) for e in table)
    head = ["rank", "run", *(_cell(shorts[k]) for k in keys), f"best {_cell(table[0].metric)}",
            "at kimg", "last", *(["real vs. real"] if floor else []), "kimg", "images/s",
            "state"]  # fmt: skip
    rows = []
    for e in table:
        rows.append(
            ["-" if e.rank is None else str(e.rank),
             _cell(e.run.name) + (" \\*" if e.run.state != "done" else ""),
             *(_cell(_short(e.differs.get(k, "?"))) for k in keys),
             f"{e.best:.5g}", kimg(e.at_kimg), f"{e.final:.5g}",
             *([f"{e.floor:.4g}"] if floor else []),
             kimg(e.run.kimg), speed(e.run.images_per_second), e.run.state or "?"]
        )  # fmt: skip
    return _aligned([head, *rows])


def _group_table(groups: Sequence[Group], first: Entry) -> str:
    keys = list(groups[0].differs)[:SHOWN]
    shorts = short_names(keys)
    head = [*(_cell(shorts[k]) for k in keys), "n", f"best {_cell(first.metric)}", "last"]
    rows = [
        [*(_cell(_short(group.differs[k])) for k in keys), str(len(group.values)),
         _spread(group.values), _spread(group.finals)]
        for group in groups
    ]  # fmt: skip
    return _aligned([head, *rows])


def _short(text: str) -> str:
    """A long value by its start and end."""
    return text if len(text) <= 32 else f"{text[:8]}...{text[-20:]}"


def _spread(values: Sequence[float]) -> str:
    mean = statistics.fmean(values)
    return f"{mean:.5g} ± {statistics.stdev(values):.2g}" if len(values) > 1 else f"{mean:.5g}"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns."""
    widths = [max(3, *(len(row[i]) for row in rows)) for i in range(len(rows[0]))]

    def line(row: Sequence[str]) -> str:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        return f"| {' | '.join(cells)} |"

    return "\n".join([line(rows[0]), line(["-" * w for w in widths]), *map(line, rows[1:])])


def _unlike(first: Entry, other: Entry) -> str:
    """Why two tables cannot be compared: in what their protocols differ."""
    if first.protocol == other.protocol:
        return (
            f"The protocol is the same as in the first table, but these runs monitor "
            f"{_cell(other.metric)}."
        )
    if ("real" in first.facts) != ("real" in other.facts):
        what = "samples are" if "real" in other.facts else "translations are"
        return f"Not comparable with the first table: {what} scored here, but not there."
    there, here = (flatten(without_names(e.facts)) for e in (first, other))
    keys = [key for key in sorted({*there, *here}) if there.get(key) != here.get(key)]
    parts = [f"{key} is {_fact(here, key)} here, {_fact(there, key)} there" for key in keys]
    more = f"; and {len(parts) - NAMED} more" if len(parts) > NAMED else ""
    return f"Not comparable with the first table: {'; '.join(parts[:NAMED])}{more}."


def _fact(facts: Mapping[str, Any], key: str) -> str:
    if key not in facts:
        return "unknown"
    text = str(facts[key])
    return _cell(text if len(text) <= 40 else f"{text[:8]}...")


def _line(e: Entry) -> str:
    """`- NAME: failed at 3 of 80 kimg: SENTENCE`"""
    state = e.run.state or "state unknown"
    far = f" at {kimg(e.run.kimg)} of {kimg(e.run.total_kimg)} kimg" if e.run.kimg else ""
    why = _why(e)
    return f"- {_cell(e.run.name)}: {state}{far}" + (f": {_cell(why)}" if why else "")


def _why(e: Entry) -> str:
    why = [e.run.sentence] if e.run.sentence else []
    why += e.run.problems
    if e.metric and e.rank is None:
        why.append(f"its {e.metric} is {e.best}")
    return "; ".join(why)


def _keys(entries: Sequence[Entry]) -> list[str]:
    return list(dict.fromkeys(key for e in entries for key in e.differs))


def _exact(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else repr(value)


def _cell(text: str) -> str:
    """A text without special meaning in a Markdown table."""
    return shown(text).replace("|", "\\|").replace("<", "&lt;")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


# -- picture ---------------------------------------------------------------------------------------


def picture_rows(tables: Sequence[Sequence[Entry]], rest: Sequence[Entry]) -> list[Row]:
    """A heading for each table and a row for each run, best first; empty without samples.

    A run with several protocols is shown in the first of its tables.
    """
    rows: list[Row] = []
    left, found = MOST, False
    first = {e.run.path: e for table in reversed((*tables, rest)) for e in table}
    for table in (*tables, rest):
        shown = [e for e in table if first[e.run.path] is e][:left]
        left -= len(shown)
        if shown:
            rows.append(Row([_heading(table[0])], None))
        for e in shown:
            samples = samples_of(e.run.path)
            found = found or samples is not None
            picture, at = samples or (None, "")
            rows.append(Row(_caption(e, at), picture))
    if hidden := len(first) - (MOST - left):
        rows.append(Row([f"and {hidden} more"], None))
    return rows if found else []


def _heading(e: Entry) -> str:
    if not e.metric:
        return "without a value"
    return f"{e.metric}, {'higher' if e.up else 'lower'} is better, protocol {e.protocol}"


def _caption(e: Entry, samples_at: str) -> list[str]:
    keys = list(e.differs)[:SHOWN]
    differs = ", ".join(f"{s} {_short(e.differs[k])}" for k, s in short_names(keys).items())
    name = e.run.name if e.rank is None else f"{e.rank}. {e.run.name}"
    lines = [name if e.run.state == "done" else f"{name} ({e.run.state or '?'})"]
    if e.metric:
        lines.append(f"{e.metric} {e.best:.5g} at {kimg(e.at_kimg)} kimg")
    lines += [differs] if differs else []
    return [*lines, f"samples at {samples_at} kimg" if samples_at else "no samples"]
