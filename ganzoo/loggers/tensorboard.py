"""TensorBoard."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from PIL import Image

from ganzoo.loggers.base import RunLogger


class TensorBoard(RunLogger, TensorBoardLogger):
    """TensorBoard event files in the run folder, under `tensorboard/`."""

    def __init__(self, run_dir: str | Path) -> None:
        super().__init__(Path(run_dir) / "tensorboard", name="", version="")

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        super().log_metrics(metrics, self.images_seen(step))

    @rank_zero_only
    def log_picture(self, name: str, picture: Image.Image, images_seen: int) -> None:
        pixels = np.asarray(picture.convert("RGB"))
        self.experiment.add_image(name, pixels, images_seen, dataformats="HWC")
