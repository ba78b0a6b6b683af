"""Runs side by side, ranked by the metric that each of them monitors: a table and a picture.

Numbers of different protocols do not compare, so runs of each protocol are ranked by themselves.
"""

import csv
import io
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

from ganzoo.disk import whole, write_whole
from ganzoo.errors import UserError
from ganzoo.metrics.protocol import best_of, monitored, sentences, without_names
from ganzoo.pictures.thumbnails import Row, picture_of, samples_of
from ganzoo.runs.__main__ import number
from ganzoo.runs.differences import differences, flatten, read_config, short_names
from ganzoo.runs.folder import Run, higher_is_better, natural, runs_under

MOST = 64  # runs in the picture
TOLD = 6  # differences between protocols that are named
SHOWN = 8  # keys in the tables for people


@dataclass(frozen=True)
class Entry:
    """A run and its numbers.

    Attributes:
        differs: what tells it from the others, by key.
        metric, protocol, up: what it is ranked by; empty and False without a number.
        facts: the protocol in full.
        best, at_kimg, final, floor: the best value and when it was; the last value; that of real
            images against other real ones.
        rank: among the runs of the same metric and protocol, equal values sharing one; None where
            there is no finite value.
        problems: sentences on what could not be read.
    """

    run: Run
    differs: Mapping[str, str]
    metric: str = ""
    protocol: str = ""
    up: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)
    best: float = math.nan
    at_kimg: float = math.nan
    final: float = math.nan
    floor: float = math.nan
    rank: int | None = None
    problems: tuple[str, ...] = ()


def leaderboard(folder: Path) -> str:
    """Rank the runs in a folder; write `leaderboard.csv`, `.md` and `.png` there.

    The picture is left out where no run has samples.

    Returns:
        what is in `leaderboard.md`.

    Raises:
        UserError: there are no runs, or the folder cannot be written to.
    """
    runs = runs_under(folder)
    if not runs:
        raise UserError(f"There are no runs in {folder}: give a folder that holds some.")
    configs = [read_config(run.path) for run in runs]
    told = differences(runs, configs)
    entries = [entry(run, differs) for run, differs in zip(runs, told, strict=True)]
    tables, rest = tables_of(entries)
    rows = picture_rows(tables, rest, {run.path: c for run, c in zip(runs, configs, strict=True)})
    text = markdown(folder, tables, rest, bool(rows))
    write_whole(folder / "leaderboard.csv", csv_of([*chain(*tables), *rest]))
    if rows:
        with whole(folder / "leaderboard.png") as partial:
            picture_of(rows).save(partial, "PNG")
    else:
        (folder / "leaderboard.png").unlink(missing_ok=True)  # left by an earlier call
    write_whole(folder / "leaderboard.md", text)
    return text


def entry(run: Run, differs: Mapping[str, str]) -> Entry:
    """The numbers of a run, from its `metrics.json`."""
    try:
        told = json.loads((run.path / "metrics.json").read_text())
        metric, up, evaluations = str(told["monitor"]), higher_is_better(told), told["evaluations"]
        best, last = best_of(evaluations, metric, up), evaluations[-1]
        values = (
            monitored(metric, best["values"]),
            best["images_seen"] / 1000,
            monitored(metric, last["values"]),
            monitored(metric, last.get("floors", {})),
        )
        protocol = str(last["protocol"])
        facts = told["protocols"][protocol]
        without_names(facts)
        sentences(protocol, facts)
    except FileNotFoundError:
        return Entry(run, differs, problems=run.problems)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        why = f"metrics.json cannot be read ({type(error).__name__}: {error})"
        others = [p for p in run.problems if not p.startswith("metrics.json")]
        return Entry(run, differs, problems=(*others, why))
    best_value, at_kimg, final, floor = (math.nan if v is None else float(v) for v in values)
    return Entry(
        run, differs, metric, protocol, up, facts, best_value, at_kimg, final, floor,
        problems=run.problems,
    )  # fmt: skip


def tables_of(entries: Sequence[Entry]) -> tuple[list[list[Entry]], list[Entry]]:
    """Entries of one metric and protocol together, ranked, most runs first; and those without."""
    groups: dict[tuple[str, str], list[Entry]] = {}
    rest = []
    for some in entries:
        if some.protocol:
            groups.setdefault((some.metric, some.protocol), []).append(some)
        else:
            rest.append(some)
    tables = sorted(groups.values(), key=lambda g: (-len(g), g[0].metric, g[0].protocol))
    return [_ranked(table) for table in tables], rest


def _ranked(entries: Sequence[Entry]) -> list[Entry]:
    sign = -1 if entries[0].up else 1
    finite = [e for e in entries if math.isfinite(e.best)]
    values = sorted(sign * e.best for e in finite)
    ranked = [replace(e, rank=1 + values.index(sign * e.best)) for e in finite]
    ranked.sort(key=lambda e: (e.rank, natural(e.run.name)))
    return [*ranked, *(e for e in entries if not math.isfinite(e.best))]


@dataclass(frozen=True)
class Group:
    """Complete runs that differ in nothing but the seed: mean and sample standard deviation."""

    differs: Mapping[str, str]
    values: tuple[float, ...]
    finals: tuple[float, ...]


def groups_of(table: Sequence[Entry]) -> list[Group]:
    """Of a table, best mean first; none if no two runs differ in nothing but the seed."""
    groups: dict[tuple[tuple[str, str], ...], list[Entry]] = {}
    for some in table:
        if some.rank is not None and some.run.state == "done" and some.differs:
            same = tuple((k, v) for k, v in some.differs.items() if k != "seed")
            groups.setdefault(same, []).append(some)
    if all(len(group) < 2 for group in groups.values()):
        return []
    told = [
        Group(dict(same), tuple(e.best for e in group), tuple(e.final for e in group))
        for same, group in groups.items()
    ]
    sign = -1 if table[0].up else 1
    return sorted(told, key=lambda group: sign * statistics.fmean(group.values))


# -- text ------------------------------------------------------------------------------------------


def csv_of(entries: Sequence[Entry]) -> str:
    """All runs, a row each; ranks begin anew with each protocol."""
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
    """The tables, what they are by, and what became of the runs that are not complete."""
    entries = [*chain(*tables), *rest]
    keys = _keys(entries)
    done = sum(e.run.state == "done" for e in entries)
    parts = [f"# Runs in {_cell(str(folder))}", f"{done} of {len(entries)} runs are complete."]
    if picture:
        parts.append("![Samples of each run](leaderboard.png)")
    if not tables:
        parts.append("No run has a number yet: there is no metrics.json in any of them.")
    for table in tables:
        first = table[0]
        better = "more" if first.up else "less"
        parts.append(f"## {_cell(first.metric)}, {better} is better, protocol {first.protocol}")
        if table is not tables[0]:
            parts.append(_unlike(tables[0][0], first))
        told = [line.split(": ", 1) for line in sentences(first.protocol, first.facts)]
        parts += [f"{_capital(_cell(name))}: {_cell(line)}." for name, line in told]
        parts.append(_table(table, keys[:SHOWN]))
        if any(e.run.state != "done" for e in table):
            parts.append("\\* not complete")
        if len(keys) > SHOWN:
            parts.append(f"{len(keys) - SHOWN} more keys differ: see leaderboard.csv.")
        if groups := groups_of(table):
            parts += ["Complete runs that differ in the seed alone:", _group_table(groups, first)]
    others = [e for e in entries if e.rank is None or e.run.state != "done"]
    if others:
        parts.append("## Not complete, or without a number")
        parts.append("\n".join(_line(e) for e in others))
    return "\n\n".join(parts) + "\n"


def _table(table: Sequence[Entry], keys: Sequence[str]) -> str:
    shorts = short_names(keys)
    floor = any(not math.isnan(e.floor) for e in table)
    head = ["rank", "run", *(_cell(shorts[k]) for k in keys), f"best {_cell(table[0].metric)}",
            "at kimg", "last", *(["real against real"] if floor else []), "kimg", "images/s",
            "state"]  # fmt: skip
    rows = []
    for e in table:
        speed = e.run.images_per_second
        rows.append(
            ["-" if e.rank is None else str(e.rank),
             _cell(e.run.name) + (" \\*" if e.run.state != "done" else ""),
             *(_cell(_short(k, e.differs.get(k, "?"))) for k in keys),
             f"{e.best:.5g}", number(e.at_kimg), f"{e.final:.5g}",
             *([f"{e.floor:.4g}"] if floor else []),
             number(e.run.kimg), "" if speed is None else f"{speed:.3g}", e.run.state or "?"]
        )  # fmt: skip
    return _aligned([head, *rows])


def _group_table(groups: Sequence[Group], first: Entry) -> str:
    keys = list(groups[0].differs)[:SHOWN]
    shorts = short_names(keys)
    head = [*(_cell(shorts[k]) for k in keys), "n", f"best {_cell(first.metric)}", "last"]
    rows = [
        [*(_cell(_short(k, group.differs[k])) for k in keys), str(len(group.values)),
         _spread(group.values), _spread(group.finals)]
        for group in groups
    ]  # fmt: skip
    return _aligned([head, *rows])


def _short(key: str, text: str) -> str:
    """A value for people: a class by its name, a path by its end."""
    text = text.rpartition(".")[2] if key.endswith("_target_") else text
    return text if len(text) <= 32 else f"{text[:8]}...{text[-20:]}"


def _spread(values: Sequence[float]) -> str:
    mean = statistics.fmean(values)
    return f"{mean:.5g} ± {statistics.stdev(values):.2g}" if len(values) > 1 else f"{mean:.5g}"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown that can be read as it is."""
    widths = [max(3, *(len(row[i]) for row in rows)) for i in range(len(rows[0]))]

    def line(row: Sequence[str]) -> str:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        return f"| {' | '.join(cells)} |"

    return "\n".join([line(rows[0]), line(["-" * w for w in widths]), *map(line, rows[1:])])


def _unlike(first: Entry, other: Entry) -> str:
    """What differs between the protocols of two tables."""
    if first.protocol == other.protocol:
        return (
            f"The protocol is that of the first table, but it is {_cell(other.metric)} that is "
            f"monitored here."
        )
    if ("real" in first.facts) != ("real" in other.facts):
        what = "samples are" if "real" in other.facts else "translations are"
        return f"Not to be compared with the first table: here {what} scored, not there."
    there, here = (flatten(without_names(e.facts)) for e in (first, other))
    keys = [key for key in sorted({*there, *here}) if there.get(key) != here.get(key)]
    told = [f"{key} is {_fact(here, key)} here, {_fact(there, key)} there" for key in keys]
    more = f"; and {len(told) - TOLD} more" if len(told) > TOLD else ""
    return f"Not to be compared with the first table: {'; '.join(told[:TOLD])}{more}."


def _fact(facts: Mapping[str, Any], key: str) -> str:
    if key not in facts:
        return "not told"
    text = str(facts[key])
    return _cell(text if len(text) <= 40 else f"{text[:8]}...")


def _line(e: Entry) -> str:
    """`- NAME: failed at 3 of 80 kimg: SENTENCE`"""
    state = e.run.state or "in no known state"
    far = f" at {number(e.run.kimg)} of {number(e.run.total_kimg)} kimg" if e.run.kimg else ""
    why = _why(e)
    return f"- {_cell(e.run.name)}: {state}{far}" + (f": {_cell(why)}" if why else "")


def _why(e: Entry) -> str:
    why = [e.run.sentence] if e.run.sentence else []
    why += e.problems
    if e.metric and e.rank is None:
        why.append(f"its {e.metric} is {e.best}")
    return "; ".join(why)


def _keys(entries: Sequence[Entry]) -> list[str]:
    return list(dict.fromkeys(key for e in entries for key in e.differs))


def _exact(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else repr(value)


def _cell(text: str) -> str:
    """A text that means nothing to Markdown's tables."""
    plain = "".join(c if c.isprintable() else "?" for c in text)
    return plain.replace("|", "\\|").replace("<", "&lt;")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


# -- picture ---------------------------------------------------------------------------------------


def picture_rows(
    tables: Sequence[Sequence[Entry]],
    rest: Sequence[Entry],
    configs: Mapping[Path, Mapping[str, Any]],
) -> list[Row]:
    """A heading for each table and a row for each run, best first; empty if none has samples."""
    rows: list[Row] = []
    left, found = MOST, False
    for table in (*tables, rest):
        shown = table[:left]
        left -= len(shown)
        if shown:
            rows.append(Row([_heading(table[0])], None))
        for e in shown:
            samples = samples_of(e.run.path, configs[e.run.path])
            found = found or samples is not None
            picture, at = samples or (None, "")
            rows.append(Row(_caption(e, at), picture))
    if hidden := sum(map(len, tables)) + len(rest) - (MOST - left):
        rows.append(Row([f"and {hidden} more"], None))
    return rows if found else []


def _heading(e: Entry) -> str:
    if not e.metric:
        return "without a number"
    return f"{e.metric}, {'more' if e.up else 'less'} is better, protocol {e.protocol}"


def _caption(e: Entry, samples_at: str) -> list[str]:
    keys = list(e.differs)[:SHOWN]
    told = ", ".join(f"{short} {_short(k, e.differs[k])}" for k, short in short_names(keys).items())
    name = e.run.name if e.rank is None else f"{e.rank}. {e.run.name}"
    lines = [name if e.run.state == "done" else f"{name} ({e.run.state or '?'})"]
    if e.metric:
        lines.append(f"{e.metric} {e.best:.5g} at {number(e.at_kimg)} kimg")
    lines += [told] if told else []
    return [*lines, f"samples at {samples_at} kimg" if samples_at else "no samples"]
