"""Curves of the numbers of a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, str]]  # of a CSV file, with a column "images_seen"
Curve = tuple[list[float], list[float]]  # thousands of images, values

# Groups of numbers that `curves.png` shows, each in a panel with this title. A group is what stands
# before the first slash of a name.
GROUPS = {
    "losses": "loss",
    "logits": "mean logit",
    "gradient_norms": "gradient norm",
    "weight_norms": "weight norm",
}
METRICS = "metrics"  # the group whose numbers have a panel each


def curves_of(rows: Rows) -> dict[str, Curve]:
    """The curves that `curves.png` shows, by name. Rows may leave out numbers."""
    curves: dict[str, Curve] = {}
    for row in rows:
        for name, value in row.items():
            if value and name.partition("/")[0] in (*GROUPS, METRICS):
                x, y = curves.setdefault(name, ([], []))
                x.append(int(row["images_seen"]) / 1000)
                y.append(float(value))
    # The spread of another metric is not a curve of its own.
    return {k: v for k, v in curves.items() if k.removesuffix("_std") not in curves.keys() - {k}}


def plot_curves(rows: Rows, path: Path) -> None:
    """Curves over thousands of images, in a panel for each group, and for each metric.

    A metric shares its panel with the other directions of a model that translates, and with its
    value for untranslated images.
    """
    curves = curves_of(rows)
    panels: dict[str, list[str]] = {}
    for name in curves:
        group, _, short = name.partition("/")
        metric = short.rpartition("/")[2].removeprefix("copy_")
        panels.setdefault(metric if group == METRICS else GROUPS[group], []).append(name)
    if not panels:
        return
    figure = Figure(figsize=(7, 2.6 * len(panels)), layout="constrained")
    for place, (title, names) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(len(panels), 1, place)
        for name in names:
            axes.plot(*curves[name], label=name, linewidth=1)
        axes.set_ylabel(title)
        axes.set_xlabel("thousand images")
        axes.legend(loc="upper right", fontsize="small")
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=100)


def plot_spectra(rows: list[dict[str, str]], path: Path) -> None:
    """A row of panels for each network, a panel for each of the three, a curve for each weight.

    Colors go from the first layer (dark) to the last (light).
    """
    networks: dict[str, dict[str, list[dict[str, str]]]] = {}
    for row in rows:
        network = row["weight"].partition(".")[0]
        networks.setdefault(network, {}).setdefault(row["weight"], []).append(row)
    if not networks:
        return
    most = max(len(weights) for weights in networks.values())
    height = max(2.6, 0.12 * min(most, 40) + 0.6)
    figure = Figure(figsize=(13, height * len(networks)), layout="constrained")
    panels = figure.subplots(len(networks), 3, squeeze=False)
    for line, (network, weights) in zip(panels, networks.items(), strict=True):
        for number, axes in enumerate(line, 1):
            _spectrum(axes, weights, f"sigma_{number}", len(network) + 1)
            axes.set_title(f"{network}: {['largest', 'second', 'third'][number - 1]}", fontsize=9)
        if len(weights) <= 40:
            line[-1].legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=6)
    figure.savefig(path, dpi=100)


def _spectrum(
    axes: Any, weights: Mapping[str, list[dict[str, str]]], column: str, prefix: int
) -> None:
    """Draw one panel: singular values over thousands of images, without the network's name."""
    colors = matplotlib.colormaps["viridis"]
    for i, (name, rows) in enumerate(weights.items()):
        x = [int(row["images_seen"]) / 1000 for row in rows]
        y = [float(row[column]) for row in rows]
        axes.plot(x, y, color=colors(i / len(weights)), linewidth=1, label=name[prefix:])
    axes.set_yscale("log", nonpositive="mask")
    axes.set_xlabel("thousand images")
    axes.grid(alpha=0.3)
