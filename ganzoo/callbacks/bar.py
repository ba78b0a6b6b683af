"""What a person sees of a run while it trains: a panel on a terminal, lines without one."""

import json
import logging
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from rich.console import Console, RenderableType
from rich.file_proxy import FileProxy
from rich.live import Live
from tqdm import tqdm

from ganzoo.engine.gan import GAN
from ganzoo.pictures import panel
from ganzoo.pictures.panel import Progress

SILENCE = 30.0  # seconds without a line, after which there is one between two ticks
SHOWN = (".png", ".gif", ".ckpt")  # endings of the files that are worth naming
FOLDERS = ("", "samples", "logits", "stages")


class ProgressBar(Callback):
    """A live panel on a terminal and in a notebook; elsewhere a line per tick.

    The panel shows how far the run is, the losses, the last metrics, what happens besides training,
    and what was written last. Everything else is in `train.log` and `metrics.csv`.
    """

    def __init__(self) -> None:
        self._view: Panel | Notebook | Lines | None = None

    def setup(self, trainer: L.Trainer, gan: GAN, stage: str) -> None:
        self._began: float | None = None
        if not trainer.is_global_zero or gan.control.dry:
            return
        self._trainer, self._gan = trainer, gan
        self._folder = Path(trainer.default_root_dir)
        self._since = time.time()
        kind = Notebook if in_notebook() else Panel if sys.stdout.isatty() else Lines
        self._view = kind(self)

    def on_train_start(self, trainer: L.Trainer, gan: GAN) -> None:
        self._began, self._images = time.perf_counter(), gan.images_seen

    def on_train_batch_end(self, trainer: L.Trainer, gan: GAN, *_: Any) -> None:
        if self._view is not None:
            self._view.step()

    def on_exception(self, trainer: L.Trainer, gan: GAN, exception: BaseException) -> None:
        self._close()

    def teardown(self, trainer: L.Trainer, gan: GAN, stage: str) -> None:
        self._close()

    def _close(self) -> None:
        if self._view is not None:
            self._view.close()
        self._view = None

    @property
    def numbers(self) -> dict[str, Any]:
        """The last numbers that callbacks have logged, by their full names."""
        return self._trainer.callback_metrics

    def progress(self) -> Progress:
        """How far the run is now."""
        gan, numbers = self._gan, self.numbers
        seen, left = gan.images_seen, None
        if self._began is not None and seen > self._images:
            pace = (time.perf_counter() - self._began) / (seen - self._images)
            left = pace * (gan.total_images - seen)
        speed = numbers.get("speed/images_per_second")
        values, floors = newest_metrics(self._folder)
        return Progress(
            kimg=seen / 1000,
            total_kimg=gan.total_images / 1000,
            images_per_second=None if speed is None else float(speed),
            seconds_left=left,
            losses={
                name.partition("/")[2]: float(value)
                for name, value in list(numbers.items())
                if name.startswith("losses/")
            },
            metrics=values,
            floors=floors,
            doing=gan.control.doing,
            written=self._written(),
        )

    def newest(self, *folders: str) -> Path | None:
        """The file that this process has written last into some of the run's folders."""
        newest, latest = None, self._since
        for folder in folders:
            with suppress(OSError), os.scandir(self._folder / folder) as entries:
                for entry in entries:
                    changed = entry.stat().st_mtime if entry.name.endswith(SHOWN) else 0.0
                    if changed > latest:
                        newest, latest = Path(entry.path), changed
        return newest

    def _written(self) -> str:
        newest = self.newest(*FOLDERS)
        if newest is None:
            return ""
        with suppress(OSError):
            seconds = max(0, time.time() - newest.stat().st_mtime)
            ago = tqdm.format_interval(seconds)
            return f"{newest.relative_to(self._folder)} written {ago} ago"
        return ""


def newest_metrics(run_dir: Path) -> tuple[dict[str, float], dict[str, float]]:
    """The last values of metrics, without spreads, and their floors; empty before the first."""
    with suppress(OSError, ValueError, KeyError, IndexError, TypeError):
        last = json.loads((run_dir / "metrics.json").read_text())["evaluations"][-1]
        values = {k: float(v) for k, v in last["values"].items() if not k.endswith("_std")}
        return values, dict(last["floors"])
    return {}, {}


def in_notebook() -> bool:
    """Whether this runs in a kernel of Jupyter, which can show pictures."""
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    shell = get_ipython()
    return shell is not None and "IPKernelApp" in shell.config


class Lines:
    """A line per tick, and one between if nothing has been said for long."""

    def __init__(self, bar: ProgressBar) -> None:
        self.bar = bar
        self._told, self._end = time.perf_counter(), Event()
        self._speed: Any = None
        self._metrics: dict[str, float] = {}
        self._thread = Thread(target=self._break_silence, daemon=True)
        self._thread.start()

    def step(self) -> None:
        speed = self.bar.numbers.get("speed/images_per_second")
        if speed is not self._speed:  # each tick logs a new tensor
            self._speed = speed
            self._tell()

    def close(self) -> None:
        self._end.set()
        self._thread.join()

    def _tell(self) -> None:
        progress = self.bar.progress()
        print(panel.line(progress, progress.metrics != self._metrics), flush=True)
        self._told, self._metrics = time.perf_counter(), dict(progress.metrics)

    def _break_silence(self) -> None:
        while not self._end.wait(1.0):
            if time.perf_counter() - self._told > SILENCE:
                self._tell()


class Above(FileProxy):
    """A stream whose lines appear above the panel.

    It is not a terminal, so that bars of tqdm inside the run stay silent. Forked processes, such as
    those that read images, write to the original stream: a lock of the panel may be held for ever
    in them.
    """

    def __init__(self, console: Console, file: Any) -> None:
        super().__init__(console, file)
        self._original, self._process = file, os.getpid()

    def isatty(self) -> bool:
        return False

    def write(self, text: str) -> int:
        if os.getpid() != self._process:
            return int(self._original.write(text))
        return super().write(text)


class Panel:
    """A live panel below everything else that is written."""

    def __init__(self, bar: ProgressBar) -> None:
        self.bar = bar
        console = Console(highlight=False)
        self.live = Live(
            console=console, get_renderable=self._render, refresh_per_second=2,
            redirect_stdout=False, redirect_stderr=False, vertical_overflow="visible",
        )  # fmt: skip
        self._streams = {
            stream: Above(console, stream) for stream in (sys.stdout, sys.stderr) if stream
        }
        self._swap(self._streams)
        self.live.start()

    def step(self) -> None:
        """A thread refreshes the panel."""

    def close(self) -> None:
        self.live.stop()
        self._swap({above: stream for stream, above in self._streams.items()})

    def _swap(self, streams: dict[Any, Any]) -> None:
        sys.stdout, sys.stderr = (streams.get(s, s) for s in (sys.stdout, sys.stderr))
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream in streams:
                handler.setStream(streams[handler.stream])

    def _render(self) -> RenderableType:
        return panel.panel(self.bar.progress())


class Notebook:
    """The panel and the newest grid in the output of a cell."""

    def __init__(self, bar: ProgressBar) -> None:
        from IPython.display import HTML, display

        self.bar, self._html = bar, HTML
        self._shown = time.perf_counter()
        self._handle: Any = display(HTML(self._render()), display_id=True)

    def step(self) -> None:
        if time.perf_counter() - self._shown > 1:
            self.close()

    def close(self) -> None:
        self._handle.update(self._html(self._render()))
        self._shown = time.perf_counter()

    def _render(self) -> str:
        return panel.html(self.bar.progress(), self.bar.newest("samples"))
