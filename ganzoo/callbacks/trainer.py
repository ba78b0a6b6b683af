"""The parts of a Trainer that callbacks use, with the types that they have in ganzoo."""

from collections.abc import Sequence
from typing import cast

import lightning as L

from ganzoo.data.images import ImageData
from ganzoo.data.unpaired import Unpaired
from ganzoo.loggers.base import RunLogger


def data_of(trainer: L.Trainer) -> ImageData | Unpaired:
    """The data of the run."""
    return cast(ImageData | Unpaired, trainer.datamodule)  # type: ignore[attr-defined]


def loggers_of(trainer: L.Trainer) -> Sequence[RunLogger]:
    """The loggers of the run."""
    return cast(Sequence[RunLogger], trainer.loggers)
