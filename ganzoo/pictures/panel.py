"""The progress of a run, for people: as a panel on a terminal, as one line, and in a notebook."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from tqdm import tqdm

LINE = 120  # characters of the line for logs, at most
FIRST = ("d_loss", "g_loss")  # the losses that nearly every model has


@dataclass(frozen=True)
class Progress:
    """How far a run is; None and "" for what is unknown."""

    kimg: float  # thousands of images seen so far
    total_kimg: float
    images_per_second: float | None = None  # of training, without metrics and pictures
    seconds_left: float | None = None  # metrics and pictures included
    losses: Mapping[str, float] = field(default_factory=dict)  # means of the last tick
    metrics: Mapping[str, float] = field(default_factory=dict)  # the last values
    floors: Mapping[str, float] = field(default_factory=dict)  # real against other real images
    doing: str = ""  # what the run does besides training at the moment
    written: str = ""  # what was written last, and how long ago

    @property
    def share(self) -> float:
        """The share of the run that is done, in [0, 1]."""
        return min(1.0, self.kimg / self.total_kimg) if self.total_kimg else 1.0

    def pace(self) -> list[str]:
        """Kimg, images/s and the time left, as far as known."""
        parts = [f"{self.kimg:.{0 if self.total_kimg >= 1000 else 1}f}/{self.total_kimg:g} kimg"]
        if self.images_per_second is not None:
            parts.append(f"{self.images_per_second:.3g} images/s")
        if self.seconds_left is not None:
            parts.append(f"{tqdm.format_interval(max(0.0, self.seconds_left))} left")
        return parts


def distinct(losses: Mapping[str, float]) -> dict[str, float]:
    """Losses, the best-known first, without those that repeat the value of another."""
    found: dict[str, float] = {}
    for name in sorted(losses, key=lambda name: (name not in FIRST, name)):
        if losses[name] not in found.values():
            found[name] = losses[name]
    return found


def line(progress: Progress, measured: bool) -> str:
    """One line of at most `LINE` characters; with the first metric if it was just `measured`."""
    numbers = [f"{name} {value:.3f}" for name, value in distinct(progress.losses).items()]
    if measured and progress.metrics:
        name, value = next(iter(progress.metrics.items()))
        numbers.insert(2, f"{name} {value:.4g}")
    parts = progress.pace()
    for number in numbers if not progress.doing else [progress.doing]:
        if len("  ".join([*parts, number])) <= LINE:
            parts.append(number)
    return "  ".join(parts)


def panel(progress: Progress) -> RenderableType:
    """Three or four lines: how far, the numbers, and what was written last."""
    kimg, *pace = progress.pace()
    head = Table.grid(expand=True, padding=(0, 2, 0, 0))
    head.add_column(no_wrap=True)
    head.add_column(ratio=1)
    head.add_column(no_wrap=True, justify="right")
    bar = ProgressBar(total=1.0, completed=progress.share, complete_style="cyan")
    head.add_row(Text(kimg, style="bold"), bar, Text("  ".join(pace)))
    numbers = Text(overflow="fold")
    for name, value in distinct(progress.losses).items():
        numbers.append(f"{name} ", "dim").append(f"{value:.3f}   ")
    metrics = Text(overflow="fold")
    for name, value in progress.metrics.items():
        metrics.append(f"{name} ", "dim").append(f"{value:.4g}", "bold")
        floor = f" (real {progress.floors[name]:.3g})" if name in progress.floors else ""
        metrics.append(f"{floor}   ", "dim")
    now = progress.doing or progress.written
    last = Text(now, style="yellow" if progress.doing else "dim", no_wrap=True, overflow="ellipsis")
    return Group(head, *(text for text in (numbers, metrics, last) if text.plain))


def html(progress: Progress, picture: Path | None) -> str:
    """The same for a notebook, with a picture below."""
    numbers = [f"{name} <b>{value:.3f}</b>" for name, value in distinct(progress.losses).items()]
    numbers += [f"{name} <b>{value:.4g}</b>" for name, value in progress.metrics.items()]
    image = ""
    if picture is not None:
        data = base64.b64encode(picture.read_bytes()).decode()
        image = (
            f'<img src="data:image/png;base64,{data}" alt="{escape(picture.name)}" '
            f'style="margin-top:6px;width:min(100%,544px);image-rendering:pixelated">'
        )
    return (
        f'<progress max="1" value="{progress.share:.4f}" style="width:min(100%,544px)"></progress>'
        f"<div>{' &ensp; '.join(progress.pace())}</div><div>{' &ensp; '.join(numbers)}</div>"
        f"<div><i>{escape(progress.doing or progress.written)}&nbsp;</i></div>{image}"
    )
