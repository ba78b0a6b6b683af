"""Pictures of what the generator makes of the same seeds or images in the course of a run."""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from PIL import Image

from ganzoo.callbacks.periods import MOST, due, picture_name, picture_period
from ganzoo.callbacks.trainer import data_of, last_pictures, loggers_of
from ganzoo.callbacks.translations import Translations
from ganzoo.config.values import Count, NotNegative, Seed
from ganzoo.engine.gan import GAN
from ganzoo.engine.kinds import FromSeeds, Translating, only_from_seeds
from ganzoo.errors import UserError, first
from ganzoo.pictures.grids import columns_for, grid, progress_strip
from ganzoo.pictures.saving import save_gif, save_png

log = logging.getLogger(__name__)

RAW = "-raw"  # ending of the file names of grids of the raw generator
NAME = re.compile(r"\d{6}(\.\d{3})?\.png")  # of the other grids


class SampleGrid(Callback):
    """`samples/<kimg>.png`, and `progress.png` and at the end `growth.gif`, which show all of them.

    The same seeds each time. If there are classes, each row is a class, and shows as many of the
    first seeds as there are columns. A model that translates shows test images and what it makes of
    them; see `Translations`.

    Args:
        every_kimg: thousands of images between two grids; None for the model's own period.
        seeds: seeds of the grid, row by row, or their number.
        raw: whether to write `samples/<kimg>-raw.png`, too, from the generator instead of its
            average.
        classes: largest number of classes to show.
        images: number of images of each domain, for a model that translates.
    """

    def __init__(
        self,
        every_kimg: NotNegative | None = 10.0,
        seeds: Iterable[Seed] | Count = 64,
        raw: bool = False,
        classes: Count = 10,
        images: Count = 8,
    ) -> None:
        self.every_kimg, self.images = every_kimg, images
        self.seeds = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
        if not self.seeds or images < 1:
            raise UserError("callbacks.grid needs at least one of seeds, and of images.")
        self.raw, self.classes = raw, classes
        self._written_at = -1

    def on_train_start(self, trainer: L.Trainer, gan: GAN) -> None:
        if not trainer.is_global_zero:
            return
        self.rows: Samples | Translations
        if isinstance(gan, Translating):
            self.rows = Translations(gan, data_of(trainer), self.images)
        else:
            model = only_from_seeds(gan)
            self.rows = Samples(model, self.seeds, self.classes)
        if (period := picture_period(gan, self.every_kimg)) != self.every_kimg:
            log.info("pictures: at most %d of a kind, so every %g kimg", MOST, period)
        if gan.images_seen == 0 and not gan.control.dry:
            self._write(trainer, gan)

    def on_train_batch_end(self, trainer: L.Trainer, gan: GAN, *_: Any) -> None:
        if due(gan, picture_period(gan, self.every_kimg)):
            self._write(trainer, gan)

    def on_train_end(self, trainer: L.Trainer, gan: GAN) -> None:
        finished = gan.trained and not gan.control.stopped_by
        if trainer.is_global_zero and finished:
            with last_pictures(gan, "the last samples"):
                self._write(trainer, gan)
            with last_pictures(gan, "growth.gif"):
                self._write_film(Path(trainer.default_root_dir))

    def _write(self, trainer: L.Trainer, gan: GAN) -> None:
        if not trainer.is_global_zero or self._written_at == gan.images_seen:
            return
        self._written_at = gan.images_seen
        folder = Path(trainer.default_root_dir) / "samples"
        name = picture_name(gan, self.every_kimg)
        for raw, ending in ((False, ""), *([(True, RAW)] if self.raw else [])):
            picture = self.rows.draw(raw)
            save_png(picture, folder / f"{name}{ending}.png")
            for logger in loggers_of(trainer):
                logger.log_picture(f"pictures/samples{ending}", picture, gan.images_seen)
        self._write_strip(Path(trainer.default_root_dir))

    def _write_strip(self, run_dir: Path) -> None:
        """Write `progress.png`, which no run should fail for."""
        try:
            found = grids_in(run_dir)
            found = found[1:] if len(found) > 8 else found  # the first grid is almost gray
            shown = sorted({round(i * (len(found) - 1) / 7) for i in range(8)})  # evenly
            paths = [found[i] for i in shown if readable(found[i])]
            grids = {f"{float(path.stem):g} kimg": path for path in paths}
            save_png(self.rows.progress(grids), run_dir / "progress.png")
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            log.warning("progress.png could not be made (%s)", reason)

    def _write_film(self, run_dir: Path) -> None:
        found = grids_in(run_dir)
        every = -(-len(found) // 100)  # at most a hundred frames, the last one for two seconds
        chosen = [*found[:-1:every], *found[-1:]]
        paths = [path for path in chosen if readable(path)]
        if missing := [path.name for path in chosen if path not in paths]:
            log.warning("growth.gif leaves out %s, unreadable", first(missing))
        frames = [Image.open(path) for path in [*paths[:-1], *[paths[-1]] * 20]]
        save_gif(frames, run_dir / "growth.gif", frames_per_second=10)


def grids_in(run_dir: Path) -> list[Path]:
    """The grids of the average generator, in the order of training."""
    return sorted(path for path in (run_dir / "samples").iterdir() if NAME.fullmatch(path.name))


def readable(path: Path) -> bool:
    """Whether a picture is complete."""
    try:
        with Image.open(path) as picture:
            picture.load()
    except (OSError, ValueError, SyntaxError):  # SyntaxError is Pillow's for a torn PNG
        return False
    return True


class Samples:
    """A grid of samples; if there are classes, some of them in a row each."""

    def __init__(self, gan: FromSeeds, seeds: Sequence[int], classes: int) -> None:
        self.gan, self.seeds = gan, seeds
        self.columns = columns_for(len(seeds))
        rows = min(classes, gan.classes)
        self.classes = torch.linspace(0, gan.classes - 1, rows).round().long().tolist()

    def draw(self, raw: bool) -> Image.Image:
        row = self.seeds[: self.columns]
        if self.classes:
            images = torch.cat([self.gan.sample(row, label, raw=raw) for label in self.classes])
        else:
            images = self.gan.sample(self.seeds, raw=raw)
        self._tile = images.shape[-2], images.shape[-1]
        return grid(images, len(row))

    def progress(self, grids: Mapping[str, Path]) -> Image.Image:
        """The first row of each of some grids, by their names."""
        pictures = [(name, Image.open(path)) for name, path in grids.items()]
        return progress_strip(pictures, self._tile)
