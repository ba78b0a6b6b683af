"""Scores at several thresholds of truncation, drawn.

A lower threshold gives better images with less variety (Brock et al. 2019, section 3.1 and figure
2).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ganzoo.engine.sampling import Threshold, threshold_name
from ganzoo.metrics.protocol import Scores


def threshold_of(scores: Scores) -> Threshold:
    threshold: Threshold = scores.protocol["fake"]["truncation"]
    return threshold


def plot(path: Path, found: Sequence[Scores], limit: float = 3.0) -> None:
    """Draw curves of one value over another, with the threshold at each point.

    These are the distance over the Inception score, and recall over precision, if there are both;
    otherwise each value over the threshold, with `limit` for no threshold.
    """
    values = found[0].values
    pairs = [pair for pair in PAIRS if all(named(values, label) for label in pair)]
    panels: list[tuple[str | None, str]] = [
        (named(values, x), str(named(values, y))) for x, y in pairs
    ] or [(None, name) for name in values if not name.endswith("_std")]
    figure = Figure(figsize=(5 * len(panels), 4), layout="constrained")
    for place, (x, y) in enumerate(panels, 1):
        axes = figure.add_subplot(1, len(panels), place)
        ordered = sorted(found, key=lambda scores: threshold_of(scores) or limit)
        across = [s.values[x] if x else threshold_of(s) or limit for s in ordered]
        axes.plot(across, [s.values[y] for s in ordered], marker="o", markersize=4, linewidth=1)
        axes.margins(0.1)
        for scores, at in zip(ordered, across, strict=True):
            axes.annotate(
                threshold_name(threshold_of(scores)),
                (at, scores.values[y]),
                xytext=(4, 4),
                textcoords="offset points",
                fontsize=7,
            )
        axes.set_xlabel(x or "truncation")
        axes.set_ylabel(y)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


# Labels of the metrics that are drawn over each other.
PAIRS = (("is", "fd"), ("precision", "recall"))


def named(values: dict[str, Any], label: str) -> str | None:
    """The full name of a label's value, which differs by extractor; None if there is none."""
    starts = ("fd", "fid") if label == "fd" else (label,)
    return next(
        (name for name in values if not name.endswith("_std") and name.partition("_")[0] in starts),
        None,
    )
