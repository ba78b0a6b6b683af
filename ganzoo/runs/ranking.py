"""Ranks of runs, by the metric that each of them monitors.

Values of different protocols cannot be compared, so each protocol has a ranking of its own.
"""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ganzoo.metrics.protocol import best_of, monitored, sentences, without_names
from ganzoo.runs.folder import Run, natural


@dataclass(frozen=True)
class Entry:
    """A run and its values.

    Attributes:
        run: the run.
        differs: the values of the keys in which the runs differ.
        metric, protocol: what the run is ranked by; empty without a value.
        up: whether higher values of the metric are better.
        facts: everything that the protocol consists of.
        best, at_kimg: the best value, and when it was reached.
        final: the last value.
        floor: the value of real images against other real images.
        rank: rank among the runs of the same metric and protocol, shared by equal values; None
            without a finite value.
        problems: sentences about files that cannot be read.
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


def entry(run: Run, differs: Mapping[str, str]) -> Entry:
    """The values of a run, from its `metrics.json`."""
    try:
        file = json.loads((run.path / "metrics.json").read_text())
        metric, up, evaluations = (
            str(file["monitor"]),
            bool(file["higher_is_better"]),
            file["evaluations"],
        )
        best, last = best_of(evaluations, metric, up), evaluations[-1]
        values = (
            monitored(metric, best["values"]),
            best["images_seen"] / 1000,
            monitored(metric, last["values"]),
            monitored(metric, last.get("floors", {})),
        )
        protocol = str(last["protocol"])
        facts = file["protocols"][protocol]
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
    sign = -1 if entries[0].up else 1
    finite = [e for e in entries if math.isfinite(e.best)]
    values = sorted(sign * e.best for e in finite)
    ranked = [replace(e, rank=1 + values.index(sign * e.best)) for e in finite]
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
