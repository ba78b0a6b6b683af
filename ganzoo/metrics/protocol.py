"""Numbers and how they came about."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Scores:
    """Numbers and how they came about.

    Attributes:
        values: by the full name of the metric.
        floors: of real images against other real images, where the metric is a distance.
        protocol: two numbers can be compared if theirs are equal.
        subject: what is scored.
        classes: the distance within each class, if that was asked for.
        notes: sentences on what to think of them.
        seconds: that it took.
    """

    values: dict[str, float]
    floors: dict[str, float]
    protocol: dict[str, Any]
    subject: dict[str, Any]
    classes: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def protocol_id(self) -> str:
        """Eight digits that differ if the protocols do, whatever the data is called."""
        real = {k: v for k, v in self.protocol["real"].items() if k not in ("data", "split")}
        told = json.dumps({**self.protocol, "real": real}, sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()[:8]

    def lines(self) -> list[str]:
        """For people."""
        lines = []
        for name, value in self.values.items():
            if name.endswith("_std"):
                continue
            spread = self.values.get(f"{name}_std")
            line = f"{name} {value:.5g}" + (f" ± {spread:.2g}" if spread else "")
            if name in self.floors:
                a, b = self.protocol["floor"]
                line += f" (real against real {self.floors[name]:.5g}, {a} and {b} images)"
            lines.append(line)
        return [*lines, f"protocol {self.protocol_id}: {sentence(self.protocol)}", *self.notes]


def sentence(protocol: Mapping[str, Any]) -> str:
    """A protocol in a line."""
    real, fake, extractor = protocol["real"], protocol["fake"], protocol["extractor"]
    parts = []
    if extractor:
        parts.append(
            f"{extractor['name']} (weights {extractor['weights'][:8]}, {extractor['resize']}, "
            f"{extractor['precision']})"
        )
    told = ", ".join(f"{k} {v}" for k, v in fake.items() if k != "images" and v is not None)
    parts.append(f"{fake['images']} fakes" + (f" ({told})" if told else ""))
    split = f", {real['split']} split" if real["split"] else ""
    flips = ", with flips" if real["mirror"] else ""
    size = "x".join(map(str, real["shape"]))
    parts.append(
        f"{real['images']} real of {real['data']}{split}{flips}, {size}, {real['fingerprint'][:8]}"
    )
    return "; ".join([*parts, f"ganzoo {protocol['ganzoo']}"])
