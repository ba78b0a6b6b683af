"""Scores and their protocols."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Scores:
    """Numbers, and the protocol by which they were measured.

    A protocol is everything that numbers depend on; they are comparable if their protocols are
    equal. If a model is scored in several directions, names of values start with the direction, as
    in `AtoB/fd`, and there is a protocol for each direction, by its name.
    """

    values: dict[str, float]  # by the full name of the metric
    floors: dict[str, float]  # real images against other real images, if the metric is a distance
    protocol: dict[str, Any]
    subject: dict[str, Any]  # the model or the images that are scored
    up: list[str] = field(default_factory=list)  # names of values that are better when higher
    notes: list[str] = field(default_factory=list)  # sentences on how far to trust the numbers
    seconds: float = 0.0  # time that it took

    @property
    def protocol_id(self) -> str:
        """Eight hexadecimal digits that differ if protocols do; names of the data do not count."""
        text = json.dumps(without_names(self.protocol), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def lines(self) -> list[str]:
        """All that a person should see: values, protocols, notes."""
        return [*self.rows(), *self.protocols(), *self.notes]

    def protocols(self) -> list[str]:
        """A line for each protocol."""
        return sentences(self.protocol_id, self.protocol)

    def rows(self) -> list[str]:
        """A line for each value."""
        lines = []
        for name, value in self.values.items():
            part, slash, short = name.rpartition("/")
            if name.endswith("_std") or short.startswith("copy_"):
                continue
            spread = self.values.get(f"{name}_std")
            line = f"{name} {value:.5g}" + (f" ± {spread:.2g}" if spread else "")
            if name in self.floors:
                protocol = self.protocol.get(name.partition("/")[0], self.protocol)
                a, b = protocol["floor"]
                line += f" (real against real {self.floors[name]:.5g}, {a} and {b} images)"
            if (copied := self.values.get(f"{part}{slash}copy_{short}")) is not None:
                line += f" (of the unchanged inputs {copied:.5g})"
            lines.append(line)
        return lines


def joined(parts: Mapping[str, Scores]) -> Scores:
    """Scores in several directions, by the names of the directions, as one."""

    def named(values: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        return {f"{part}/{name}": v for part, some in values.items() for name, v in some.items()}

    some = next(iter(parts.values()))
    return Scores(
        named({part: scores.values for part, scores in parts.items()}),
        named({part: scores.floors for part, scores in parts.items()}),
        {part: scores.protocol for part, scores in parts.items()},
        some.subject,
        up=[f"{part}/{name}" for part, scores in parts.items() for name in scores.up],
        notes=[f"{part}: {note}" for part, scores in parts.items() for note in scores.notes],
        seconds=sum(scores.seconds for scores in parts.values()),
    )


def monitored(monitor: str, values: Mapping[str, float]) -> float | None:
    """The value of a metric, the mean if several directions have it; None if there is none."""
    ending = f"/{monitor}"
    some = [v for name, v in values.items() if name == monitor or name.endswith(ending)]
    return sum(some) / len(some) if some else None


def best_of(
    evaluations: Sequence[dict[str, Any]], monitor: str, higher_is_better: bool
) -> dict[str, Any]:
    """The best evaluation by the last one's protocol, the first of equal ones; NaN is worst."""

    def key(evaluation: Mapping[str, Any]) -> tuple[bool, float]:
        value = monitored(monitor, evaluation["values"])
        if value is None or math.isnan(value):
            return True, 0.0
        return False, -value if higher_is_better else value

    protocol = evaluations[-1]["protocol"]
    return min((e for e in evaluations if e["protocol"] == protocol), key=key)


def without_names(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """A protocol without the names of the data."""
    if "real" not in protocol:
        return {name: without_names(part) for name, part in protocol.items()}
    real = {k: v for k, v in protocol["real"].items() if k not in ("data", "split")}
    fake = {k: v for k, v in protocol["fake"].items() if k != "inputs"}
    return {**protocol, "real": real, "fake": fake}


def sentences(protocol_id: str, protocol: Mapping[str, Any]) -> list[str]:
    """A line for each protocol."""
    named = f"protocol {protocol_id}"
    if "real" in protocol:
        return [f"{named}: {sentence(protocol)}"]
    return [f"{named}, {name}: {sentence(part)}" for name, part in protocol.items()]


def sentence(protocol: Mapping[str, Any]) -> str:
    """A protocol in one line."""
    real, fake, extractor = protocol["real"], protocol["fake"], protocol["extractor"]
    parts = []
    if extractor:
        parts.append(
            f"{extractor['name']} (weights {extractor['weights'][:8]}, {extractor['resize']}, "
            f"{extractor['precision']})"
        )
    facts = ", ".join(f"{k} {v}" for k, v in fake.items() if k != "images" and v is not None)
    parts.append(f"{fake['images']} fakes" + (f" ({facts})" if facts else ""))
    split = f", {real['split']} split" if real["split"] else ""
    flips = ", with flips" if real["mirror"] else ""
    size = "x".join(map(str, real["shape"]))
    parts.append(
        f"{real['images']} real of {real['data']}{split}{flips}, {size}, {real['fingerprint'][:8]}"
    )
    return "; ".join([*parts, f"ganzoo {protocol['ganzoo']}"])
