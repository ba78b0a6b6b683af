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
    "augment": "adaptive augmentation",
}
METRICS = "metrics"  # the group whose numbers have a panel each
FEW = 30  # points of a curve that are marked


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


def plot_curves(rows: Rows, path: Path, floors: Mapping[str, float] = {}) -> None:
    """Curves over thousands of images, in a panel for each group, and for each metric.

    A metric shares its panel with the other directions of a model that translates, and with its
    value for untranslated images. Its floor, the value of real images against others, is dashed.
    """
    curves = curves_of(rows)
    panels = panels_of(curves)
    if not panels:
        return
    columns = 2 if len(panels) > 2 else 1
    lines = -(-len(panels) // columns)
    end = max(x[-1] for x, _ in curves.values())
    figure = Figure(figsize=(5.6 * columns, 2.7 * lines), layout="constrained")
    for place, (title, some) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(lines, columns, place)
        _panel(axes, title, some, floors)
        axes.set_xlim(0, end * 1.02)
    figure.savefig(path, dpi=120)


def panels_of(curves: Mapping[str, Curve]) -> dict[str, dict[str, Curve]]:
    """Curves by their titles, and by their names in each panel.

    A curve that repeats another one of its panel is left out: without a penalty, the adversarial
    loss is all of the discriminator's loss.
    """
    panels: dict[str, dict[str, Curve]] = {}
    for name in sorted(curves, key=len):
        group, _, short = name.partition("/")
        metric = short.rpartition("/")[2].removeprefix("copy_")
        panel = panels.setdefault(metric if group == METRICS else GROUPS[group], {})
        if curves[name] not in panel.values():
            panel[name] = curves[name]
    # Losses first, then metrics, then what explains them. In each panel by name, which gives the
    # discriminator and the generator the same colors everywhere.
    order = {title: place + (place > 0) for place, title in enumerate(GROUPS.values())}
    return {
        title: dict(sorted(panels[title].items()))
        for title in sorted(panels, key=lambda title: (order.get(title, 1), title))
    }


def _panel(axes: Any, title: str, curves: Mapping[str, Curve], floors: Mapping[str, float]) -> None:
    """Draw one panel: its title and legend above, so that they cover no curve."""
    for name, (x, y) in curves.items():
        marker = "o" if len(x) <= FEW else None  # a single point has no line
        label = name.partition("/")[2]
        (line,) = axes.plot(x, y, label=label, linewidth=1.4, marker=marker, markersize=3.5)
        if name.removeprefix(f"{METRICS}/") in floors:
            floor = floors[name.removeprefix(f"{METRICS}/")]
            text = f"real images {floor:.3g}"
            axes.axhline(floor, color=line.get_color(), linestyle="--", linewidth=1, label=text)
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
    axes.legend(
        loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, fontsize=8,
        borderaxespad=0.1, handlelength=1.4, columnspacing=1.0,
    )  # fmt: skip
    axes.set_xlabel("kimg (thousand images)", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


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
