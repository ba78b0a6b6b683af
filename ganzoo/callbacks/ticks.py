"""What happens beside training: checkpoints, pictures, numbers, a progress bar.

Each is triggered when the clock (`images_seen`) crosses a multiple of `every_kimg` thousand images,
so a resumed run does everything at the moments where an uninterrupted one does. `every_kimg: null`
leaves the period to the model (`GAN.tick_kimg`).
"""

import logging
import signal
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ganzoo.callbacks.translations import Panel
from ganzoo.distributed.strategy import largest
from ganzoo.engine.gan import GAN
from ganzoo.engine.preflight import peak_memory
from ganzoo.engine.sampling import batches_for, check
from ganzoo.loggers.extras import read_rows, save_checkpoint
from ganzoo.pictures.grids import (
    columns_for,
    grid,
    named_rows,
    plot_curves,
    progress_strip,
    save_gif,
)
from ganzoo.pictures.sheets import class_sheet, truncations
from ganzoo.schedules.images import crossed

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)  # that stop a run
RAW = "-raw"  # ending of the names of grids of the raw generator
GROUPS = {"loss": "losses", "score": "scores", "norm": "norms"}  # by the last word of a name


class SaveLast(Callback):
    """Writes `last.ckpt` now and then, at the end, and before stopping on a signal.

    SIGTERM, Ctrl-C and SIGUSR1 let the iteration finish first, and all processes stop after the
    same one; a Ctrl-C after another signal does not wait.
    """

    def __init__(self, every_kimg: float | None = 10.0) -> None:
        self.every_kimg = every_kimg
        self._saved_at = -1

    def on_train_start(self, trainer: L.Trainer, gan: GAN) -> None:  # type: ignore[override]
        # Replaces Lightning's SIGTERM handler, which starts a collective inside of the handler.
        def remember(number: int, frame: FrameType | None) -> None:
            if gan.signal and number == signal.SIGINT:
                raise KeyboardInterrupt
            gan.signal = gan.signal or number  # SIGTERM follows when the time is up

        for number in SIGNALS:
            signal.signal(number, remember)
        self._saved_at = gan.images_seen

    def on_train_batch_end(self, trainer: L.Trainer, gan: GAN, *_: Any) -> None:  # type: ignore[override]
        if number := largest(gan.signal, gan.device):
            gan.stopped_by = number
            trainer.should_stop = True
        elif due(gan, self.every_kimg):
            self._save(trainer, gan)

    def on_train_end(self, trainer: L.Trainer, gan: GAN) -> None:  # type: ignore[override]
        self._save(trainer, gan)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # another process's may have stopped this one

    def on_exception(self, trainer: L.Trainer, gan: GAN, exception: BaseException) -> None:  # type: ignore[override]
        # Alone and between two iterations all is well, for instance when a file could not be read.
        if trainer.world_size == 1 and trainer.training and gan.whole and self._saved_at >= 0:
            try:
                self._save(trainer, gan)
            except Exception as error:
                log.warning("%s", error)

    def _save(self, trainer: L.Trainer, gan: GAN) -> None:
        if self._saved_at == gan.images_seen or gan.going_back is not None:
            return
        gan.check_finite()  # a checkpoint is never of a broken state
        self._saved_at = gan.images_seen  # also when it fails: once is enough
        path = Path(trainer.default_root_dir) / "last.ckpt"
        save_checkpoint(trainer, path, gan.images_seen)
        gan.last_checkpoint = f"{path} ({gan.images_seen:,} images)"


class SaveStages(Callback):
    """`stages/<kimg>.ckpt` at the end of every phase of a model that has several."""

    def on_train_batch_end(self, trainer: L.Trainer, gan: GAN, *_: Any) -> None:  # type: ignore[override]
        if gan.stage(gan.images_before) == gan.stage(gan.images_seen):
            return
        gan.check_finite()
        name = kimg_name(gan.images_seen, 0.5)
        path = Path(trainer.default_root_dir) / "stages" / f"{name}.ckpt"
        save_checkpoint(trainer, path, gan.images_seen)


class SampleGrid(Callback):
    """`samples/<kimg>.png`: the same seeds again and again; at the end `progress.png`.

    `growth.gif` shows all of them in turn. Where there are classes, each row is of one, evenly
    chosen among them, and shows the first seeds, as many as there are columns. Of a model that
    translates they show the same test images and what becomes of them; see `Panel`.
    Loggers get classes as a table as well, and at the end the first seeds at several truncations,
    which `truncations.png` shows.

    Args:
        every_kimg: how often.
        seeds: of the tiles, in rows.
        raw: also `samples/<kimg>-raw.png`, of the generator as it is instead of its average.
        columns: of the grid.
        classes: the most that are shown.
        images: of each domain, where the model translates.
        truncations: thresholds, None for no limit; each takes standing statistics of its own.
    """

    def __init__(
        self,
        every_kimg: float | None = 10.0,
        seeds: Iterable[int] | int = 64,
        raw: bool = False,
        columns: int | None = None,
        classes: int = 10,
        images: int = 8,
        truncations: Sequence[float | None] | None = None,
    ) -> None:
        if truncations is not None:
            check(truncations)
        self.truncations = truncations
        self.every_kimg, self.images = every_kimg, images
        self.panel: Panel | None = None
        self.seeds = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
        self.raw, self.columns, self.classes = raw, columns, classes
        self._written_at = -1

    def on_train_start(self, trainer: L.Trainer, gan: GAN) -> None:  # type: ignore[override]
        if gan.directions and trainer.is_global_zero:
            self.panel = Panel(gan, trainer.datamodule, self.images)  # type: ignore[attr-defined]
        if gan.images_seen == 0 and not trainer.should_stop:
            self._write(trainer, gan)

    def on_train_batch_end(self, trainer: L.Trainer, gan: GAN, *_: Any) -> None:  # type: ignore[override]
        if due(gan, self.every_kimg):
            self._write(trainer, gan)

    def on_train_end(self, trainer: L.Trainer, gan: GAN) -> None:  # type: ignore[override]
        if trainer.is_global_zero and not gan.stopped_by and gan.images_seen >= gan.total_images:
            self._write(trainer, gan)
            self._strip(Path(trainer.default_root_dir))
            if self.truncations is not None:
                self._truncate(trainer, gan)

    def _write(self, trainer: L.Trainer, gan: GAN) -> None:
        if not trainer.is_global_zero or self._written_at == gan.images_seen:
            return
        self._written_at = gan.images_seen
        folder = Path(trainer.default_root_dir) / "samples"
        folder.mkdir(exist_ok=True)
        name = kimg_name(gan.images_seen, self.every_kimg, gan.total_images / 1000)
        for raw, ending in ((False, ""), *([(True, RAW)] if self.raw else [])):
            sheet = self._sheet(gan, raw)
            picture = self._picture(gan, raw, sheet)
            picture.save(folder / f"{name}{ending}.png")
            for logger in trainer.loggers:
                logger.log_picture(f"pictures/samples{ending}", picture, gan.images_seen)  # type: ignore[attr-defined]
            if sheet:
                log_sheet(trainer, gan, f"tables/classes{ending}", "class", sheet)

    def _sheet(self, gan: GAN, raw: bool) -> dict[str, Tensor]:
        """Images of some classes by their names, if there are any."""
        if not (rows := min(self.classes, gan.classes)):
            return {}
        shown = torch.linspace(0, gan.classes - 1, rows).round().long().tolist()
        return class_sheet(gan, shown, self._first_seeds, raw=raw)

    @property
    def _first_seeds(self) -> list[int]:
        return self.seeds[: self.columns or columns_for(len(self.seeds))]

    def _picture(self, gan: GAN, raw: bool, sheet: dict[str, Tensor]) -> Image.Image:
        if self.panel is not None:
            return self.panel.picture(gan, raw)
        images = torch.cat(list(sheet.values())) if sheet else gan.sample(self.seeds, raw=raw)
        self._tile = images.shape[-2], images.shape[-1]
        return grid(images, len(self._first_seeds))

    def _truncate(self, trainer: L.Trainer, gan: GAN) -> None:
        assert self.truncations is not None
        batches = batches_for(gan, None, truncated=True)
        sheet = truncations(gan, self._first_seeds, self.truncations, batches=batches)
        picture = named_rows(sheet)
        picture.save(Path(trainer.default_root_dir) / "truncations.png")
        for logger in trainer.loggers:
            logger.log_picture("pictures/truncations", picture, gan.images_seen)  # type: ignore[attr-defined]
        log_sheet(trainer, gan, "tables/truncations", "truncation", sheet)

    def _strip(self, run_dir: Path) -> None:
        paths = sorted(p for p in (run_dir / "samples").glob("*.png") if RAW not in p.stem)
        at = sorted({round(i * (len(paths) - 1) / 7) for i in range(8)})  # at most eight, evenly
        grids = {f"{float(paths[i].stem):g} kimg": paths[i] for i in at}
        if self.panel is not None:
            strip = self.panel.progress(grids)
        else:
            rows = [(name, Image.open(path)) for name, path in grids.items()]
            strip = progress_strip(rows, self._tile)
        strip.save(run_dir / "progress.png")
        every = -(-len(paths) // 100)  # at most a hundred frames, the last one for two seconds
        frames = [Image.open(path) for path in [*paths[:-1:every], *[paths[-1]] * 20]]
        save_gif(frames, run_dir / "growth.gif", frames_per_second=10)


def log_sheet(
    trainer: L.Trainer, gan: GAN, name: str, what: str, sheet: Mapping[str, Tensor]
) -> None:
    """Tell the loggers of rows of images, [N, C, H, W] in [-1, 1], each of one kind of `what`."""
    rows = [[kind, grid(images, len(images))] for kind, images in sheet.items()]
    for logger in trainer.loggers:
        logger.log_sheet(name, [what, "images"], rows, gan.images_seen)  # type: ignore[attr-defined]


class Ticks(Callback):
    """One line in `train.log` and one row for every logger each `every_kimg` thousand images.

    Losses and gradient norms are means over the tick; beside them the norms of all weights,
    images/s, sec/kimg, the share of the time that was spent waiting for data, and the peak memory.
    These are without the time of metrics, which is `maintenance`, in seconds. At the end
    `curves.png`.
    """

    def __init__(self, every_kimg: float | None = 1.0) -> None:
        self.every_kimg = every_kimg
        self.ticks, self.seconds = 0, 0.0  # so far, of all that the run was gone on with

    def state_dict(self) -> dict[str, Any]:
        return {"ticks": self.ticks, "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.ticks, self.seconds = state["ticks"], state["seconds"]

    def on_train_start(self, trainer: L.Trainer, gan: GAN) -> None:  # type: ignore[override]
        self._begin(trainer, gan)

    def on_train_batch_end(self, trainer: L.Trainer, gan: GAN, *_: Any) -> None:  # type: ignore[override]
        if due(gan, self.every_kimg):
            self._tick(trainer, gan)

    def on_train_end(self, trainer: L.Trainer, gan: GAN) -> None:  # type: ignore[override]
        if gan.images_seen > self._images:
            self._tick(trainer, gan)
        if trainer.is_global_zero:
            run_dir = Path(trainer.default_root_dir)
            plot_curves(read_curves(run_dir / "metrics.csv"), run_dir / "curves.png")

    def _begin(self, trainer: L.Trainer, gan: GAN) -> None:
        self._images, self._aside = gan.images_seen, gan.aside
        self._since = time.perf_counter()
        self._waited = _waited(trainer)

    def _tick(self, trainer: L.Trainer, gan: GAN) -> None:
        means = gan.drain_report()
        images = gan.images_seen - self._images
        maintenance = gan.aside - self._aside
        seconds = time.perf_counter() - self._since - maintenance
        self.ticks, self.seconds = self.ticks + 1, self.seconds + seconds + maintenance
        speed = {
            "speed/images_per_second": images / seconds,
            "speed/sec_per_kimg": 1000 * seconds / images,
            "speed/data_wait_share": (_waited(trainer) - self._waited) / seconds,
            "speed/peak_memory_gib": peak_memory(gan.device) / 2**30,
        }
        norms = {f"{name}_weight_norm": norm for name, norm in gan.weight_norms().items()}
        rates = {f"lr/{name}": rate for name, rate in gan.learning_rates().items()}
        noted = {grouped(name): value for name, value in {**means, **norms}.items()}
        for logger in trainer.loggers:
            logger.log_metrics({**noted, **rates, **speed}, step=gan.images_seen)
        if trainer.is_global_zero:
            left = (gan.total_images - gan.images_seen) * seconds / images
            log.info(
                "tick %d  kimg %.1f  minibatch %d  time %s  sec/tick %.1f  images/s %.0f  "
                "sec/kimg %.2f  maintenance %.1f  data wait %.1f %%  memory %.2f GiB  left %s  %s",
                self.ticks,
                gan.images_seen / 1000,
                (gan.images_seen - gan.images_before) // gan.discriminator_steps,
                tqdm.format_interval(self.seconds),
                seconds,
                *list(speed.values())[:2],
                maintenance,
                100 * speed["speed/data_wait_share"],
                speed["speed/peak_memory_gib"],
                tqdm.format_interval(max(0, left)),
                "  ".join(f"{name} {mean:.3f}" for name, mean in means.items()),
            )
        self._begin(trainer, gan)


class ProgressBar(Callback):
    """A bar with images, images/s and the time left; silent where there is no terminal."""

    def on_train_start(self, trainer: L.Trainer, gan: GAN) -> None:  # type: ignore[override]
        self._bar = tqdm(
            total=gan.total_images,
            initial=gan.images_seen,
            unit=" images",
            unit_scale=True,
            dynamic_ncols=True,
            # None: only where there is a terminal
            disable=None if trainer.is_global_zero and not trainer.should_stop else True,
        )

    def on_train_batch_end(self, trainer: L.Trainer, gan: GAN, *_: Any) -> None:  # type: ignore[override]
        self._bar.update(gan.images_seen - gan.images_before)

    def on_train_end(self, trainer: L.Trainer, gan: GAN) -> None:  # type: ignore[override]
        self._bar.close()

    def on_exception(self, trainer: L.Trainer, gan: GAN, exception: BaseException) -> None:  # type: ignore[override]
        if hasattr(self, "_bar"):
            self._bar.close()


def due(gan: GAN, every_kimg: float | None) -> bool:
    """Whether the last iteration crossed a multiple of a period, None for the model's own."""
    every = gan.tick_kimg(gan.images_before) if every_kimg is None else every_kimg
    return crossed(gan.images_before, gan.images_seen, every)


def grouped(name: str) -> str:
    """What loggers call a number that a model notes: wandb and TensorBoard make a group of what
    comes before a slash. One of no known kind keeps its name.
    """
    group = GROUPS.get(name.rpartition("_")[2])
    return f"{group}/{name}" if group else name


def _waited(trainer: L.Trainer) -> float:
    """Seconds that training has waited for data, where the data module tells."""
    return getattr(trainer.datamodule, "waited", 0.0)  # type: ignore[attr-defined]


def kimg_name(images_seen: int, *periods: float | None) -> str:
    """Thousands of images, zero-padded so that names sort; with decimals if one of `periods` has.

    The periods, in thousands of images, are those at which names are given; those of a model are
    whole.
    """
    kimg = images_seen / 1000
    whole = all(p is None or float(p).is_integer() for p in periods)
    return f"{kimg:06.0f}" if whole else f"{kimg:010.3f}"


def read_curves(path: Path) -> dict[str, tuple[list[float], list[float]]]:
    """Losses, norms, metrics of a `metrics.csv`: name -> (thousands of images, values)."""
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for row in read_rows(path):
        for name, value in row.items():
            loss = name.endswith(("_loss", "_score", "_grad_norm", "_weight_norm"))
            aside = name.endswith(("_std", "/seconds", "/share_of_time"))
            if value and (loss or (name.startswith("metrics/") and not aside)):
                x, y = curves.setdefault(name, ([], []))
                x.append(int(row["images_seen"]) / 1000)
                y.append(float(value))
    return curves
