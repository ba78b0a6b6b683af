"""Ranks of runs.

Values of different protocols cannot be compared, so each protocol has a ranking of its own.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ganzoo.runs.folder import Run, natural
from ganzoo.runs.scores import Score


@dataclass(frozen=True, kw_only=True)
class Entry(Score):
    """A run and its score by one protocol, or none.

    Attributes:
        run: the run.
        differs: the values of the keys in which the runs differ.
        rank: rank among the runs of the same metric and protocol, shared by equal values; None
            without a finite value.
    """

    run: Run
    differs: Mapping[str, str]
    rank: int | None = None


def entries_of(run: Run, differs: Mapping[str, str]) -> list[Entry]:
    """An entry for each protocol that a run has a score by; one without, if there is none."""
    return [Entry(run=run, differs=differs, **vars(s)) for s in run.scores or (Score(),)]


def tables_of(entries: Sequence[Entry]) -> tuple[list[list[Entry]], list[Entry]]:
    """Rankings, one for each metric and protocol, most runs first; and the runs without a value."""
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
    finite = [e for e in entries if math.isfinite(e.best)]
    values = sorted(e.order for e in finite)
    ranked = [replace(e, rank=1 + values.index(e.order)) for e in finite]
    ranked.sort(key=lambda e: (e.rank, natural(e.run.name)))
    return [*ranked, *(e for e in entries if not math.isfinite(e.best))]


@dataclass(frozen=True)
class Group:
    """Complete runs that differ only in the seed: their best and last values."""

    differs: Mapping[str, str]
    values: tuple[float, ...]
    finals: tuple[float, ...]


def groups_of(table: Sequence[Entry]) -> list[Group]:
    """The groups of a ranking, best mean first; empty if no two runs differ only in the seed."""
    groups: dict[tuple[tuple[str, str], ...], list[Entry]] = {}
    for some in table:
        if some.rank is not None and some.run.state == "done" and some.differs:
            same = tuple((k, v) for k, v in some.differs.items() if k != "seed")
            groups.setdefault(same, []).append(some)
    if all(len(group) < 2 for group in groups.values()):
        return []
    found = [
        Group(dict(same), tuple(e.best for e in group), tuple(e.final for e in group))
        for same, group in groups.items()
    ]
    sign = -1 if table[0].up else 1
    return sorted(found, key=lambda group: sign * statistics.fmean(group.values))
