"""Pictures of samples, the same seeds again and again."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from PIL import Image
from torch import Tensor

from ganzoo.callbacks.periods import due, kimg_name
from ganzoo.callbacks.trainer import data_of, loggers_of
from ganzoo.callbacks.translations import Panel
from ganzoo.engine.gan import GAN
from ganzoo.engine.kinds import Translating, only_from_seeds
from ganzoo.engine.sampling import batches_for, check
from ganzoo.pictures.film import save_gif
from ganzoo.pictures.grids import columns_for, grid, named_rows, progress_strip
from ganzoo.pictures.sheets import class_sheet, truncations

RAW = "-raw"  # ending of the names of grids of the raw generator
# ending of the names of grids of the raw generator


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

    def on_train_start(self, trainer: L.Trainer, gan: GAN) -> None:
        if isinstance(gan, Translating) and trainer.is_global_zero:
            self.panel = Panel(gan, data_of(trainer), self.images)
        if gan.images_seen == 0 and not trainer.should_stop:
            self._write(trainer, gan)

    def on_train_batch_end(self, trainer: L.Trainer, gan: GAN, *_: Any) -> None:
        if due(gan, self.every_kimg):
            self._write(trainer, gan)

    def on_train_end(self, trainer: L.Trainer, gan: GAN) -> None:
        if (
            trainer.is_global_zero
            and not gan.control.stopped_by
            and gan.images_seen >= gan.total_images
        ):
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
            for logger in loggers_of(trainer):
                logger.log_picture(f"pictures/samples{ending}", picture, gan.images_seen)
            if sheet:
                log_sheet(trainer, gan, f"tables/classes{ending}", "class", sheet)

    def _sheet(self, gan: GAN, raw: bool) -> dict[str, Tensor]:
        """Images of some classes by their names, if there are any."""
        if not (rows := min(self.classes, gan.classes)):
            return {}
        shown = torch.linspace(0, gan.classes - 1, rows).round().long().tolist()
        return class_sheet(only_from_seeds(gan), shown, self._first_seeds, raw=raw)

    @property
    def _first_seeds(self) -> list[int]:
        return self.seeds[: self.columns or columns_for(len(self.seeds))]

    def _picture(self, gan: GAN, raw: bool, sheet: dict[str, Tensor]) -> Image.Image:
        if self.panel is not None and isinstance(gan, Translating):
            return self.panel.picture(gan, raw)
        images = (
            torch.cat(list(sheet.values()))
            if sheet
            else only_from_seeds(gan).sample(self.seeds, raw=raw)
        )
        self._tile = images.shape[-2], images.shape[-1]
        return grid(images, len(self._first_seeds))

    def _truncate(self, trainer: L.Trainer, gan: GAN) -> None:
        assert self.truncations is not None
        model = only_from_seeds(gan)
        batches = batches_for(model, None, truncated=True)
        sheet = truncations(model, self._first_seeds, self.truncations, batches=batches)
        picture = named_rows(sheet)
        picture.save(Path(trainer.default_root_dir) / "truncations.png")
        for logger in loggers_of(trainer):
            logger.log_picture("pictures/truncations", picture, gan.images_seen)
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
    for logger in loggers_of(trainer):
        logger.log_sheet(name, [what, "images"], rows, gan.images_seen)
