"""What a run reached: the values of its training and those of `ganzoo.evaluate`, by protocol."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ganzoo.metrics.protocol import best_of, monitored, sentences, without_names

TRAINING = "metrics.json"  # and `ganzoo.evaluate` writes <checkpoint>.metrics.json
Evaluation = dict[str, Any]  # images_seen, values, floors, protocol, facts, up


@dataclass(frozen=True, kw_only=True)
class Score:
    """The values of a run by one protocol.

    Attributes:
        metric, protocol: what was measured, and the ID of how; empty without a value.
        up: whether higher values of the metric are better.
        facts: everything that the protocol consists of.
        best, at_kimg: the best value, and when it was reached.
        final: the last value.
        floor: the value of real images against other real images.
    """

    metric: str = ""
    protocol: str = ""
    up: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)
    best: float = math.nan
    at_kimg: float = math.nan
    final: float = math.nan
    floor: float = math.nan

    @property
    def order(self) -> float:
        """A number to sort by, the best first; infinite without a finite value."""
        if not math.isfinite(self.best):
            return math.inf
        return -self.best if self.up else self.best


def scores_of(run_dir: Path) -> tuple[list[Score], list[str]]:
    """The scores in a run folder, one for each protocol, and sentences about unreadable files.

    First comes the protocol of the last evaluation during training, if any, by the monitored
    metric. Other protocols have that metric as well or, without it, the first one of the suite.
    """
    found: dict[str, list[Evaluation]] = {}
    monitor, problems = "", []
    for path in (run_dir / TRAINING, *sorted(run_dir.glob(f"*.{TRAINING}"))):
        try:
            content = json.loads(path.read_text())
            if path.name == TRAINING:
                monitor, evaluations = str(content["monitor"]), list(_of_training(content))
            else:
                evaluations = list(_of_checkpoint(content))
        except FileNotFoundError:
            continue
        except (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
            problems.append(unreadable(path.name, error))
            continue
        for each in evaluations:
            found.setdefault(each["protocol"], []).append(each)
    return [_score(evaluations, monitor) for evaluations in found.values()], problems


def unreadable(name: str, error: Exception) -> str:
    """A sentence about a file that cannot be read."""
    why = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
    return f"{name} cannot be read ({why})"


def _of_training(content: dict[str, Any]) -> Iterator[Evaluation]:
    """The evaluations during training by the last protocol, as `best.ckpt` counts them."""
    protocol = content["evaluations"][-1]["protocol"]
    up = [content["monitor"]] if content["higher_is_better"] else []
    for each in content["evaluations"]:
        if each["protocol"] == protocol:
            facts = content["protocols"][protocol]
            yield _evaluation(each["images_seen"], each, protocol, facts, up)


def _of_checkpoint(content: list[dict[str, Any]]) -> Iterator[Evaluation]:
    for each in content:
        seen = each["subject"]["images_seen"]
        yield _evaluation(seen, each, each["protocol_id"], each["protocol"], each["up"])


def _evaluation(
    images_seen: int, numbers: dict[str, Any], protocol: str, facts: Any, up: list[str]
) -> Evaluation:
    """An evaluation from a file; raises if it is not one."""
    without_names(facts)
    sentences(protocol, facts)
    values, floors = (
        {name: float(value) for name, value in numbers.get(part, {}).items()}
        for part in ("values", "floors")
    )
    return {
        "images_seen": int(images_seen), "values": values, "floors": floors,
        "protocol": str(protocol), "facts": facts, "up": dict.fromkeys(up, 1.0),
    }  # fmt: skip


def _score(evaluations: list[Evaluation], monitor: str) -> Score:
    """The score of evaluations by one protocol."""
    evaluations = sorted(evaluations, key=lambda each: each["images_seen"])
    last = evaluations[-1]
    names = [name for each in evaluations for name in each["values"]]
    metric = monitor
    if names and monitored(monitor, dict.fromkeys(names, 0.0)) is None:
        metric = names[0].rpartition("/")[2]  # the mean of all directions
    up = any(monitored(metric, each["up"]) for each in evaluations)
    best = best_of(evaluations, metric, up)
    value, final, floor = (
        math.nan if number is None else number
        for number in (
            monitored(metric, best["values"]),
            monitored(metric, last["values"]),
            monitored(metric, last["floors"]),
        )
    )
    return Score(
        metric=metric, protocol=last["protocol"], up=up, facts=last["facts"], best=value,
        at_kimg=best["images_seen"] / 1000, final=final, floor=floor,
    )  # fmt: skip
