"""What callbacks do with a Trainer: its data and loggers with their types, numbers, time."""

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import cast

import lightning as L
import torch

from ganzoo.data.images import ImageData
from ganzoo.data.unpaired import Unpaired
from ganzoo.engine.gan import GAN
from ganzoo.loggers.base import RunLogger
from ganzoo.loggers.csv import MetricsCSV

log = logging.getLogger(__name__)


def data_of(trainer: L.Trainer) -> ImageData | Unpaired:
    """The data of the run."""
    return cast(ImageData | Unpaired, trainer.datamodule)  # type: ignore[attr-defined]


def loggers_of(trainer: L.Trainer) -> Sequence[RunLogger]:
    """The loggers of the run that take more than numbers; others of Lightning take only these."""
    return [logger for logger in trainer.loggers if isinstance(logger, RunLogger)]


def declare_numbers(trainer: L.Trainer, names: Iterable[str]) -> None:
    """Give numbers that come late in a run columns of `metrics.csv` before its first row."""
    for logger in trainer.loggers:
        if isinstance(logger, MetricsCSV):
            logger.declare(names)


def log_numbers(
    trainer: L.Trainer, gan: GAN, numbers: Mapping[str, float], table: bool = True
) -> None:
    """Log numbers by their full names, and pass them to those who listen to the model.

    `metrics.csv` gets them only with `table`. All processes call it.
    """
    for logger in trainer.loggers:
        if table or not isinstance(logger, MetricsCSV):
            logger.log_metrics(dict(numbers), step=gan.images_seen)
    if table:  # for callbacks of Lightning that monitor a number
        trainer.callback_metrics.update({k: torch.tensor(v) for k, v in numbers.items()})
    for listener in gan.report.listeners:
        for name, number in numbers.items():
            listener(name, number)


@contextmanager
def last_pictures(gan: GAN, what: str) -> Iterator[None]:
    """Inside, pictures are made from what lies in the run folder, when training has ended.

    Whatever is wrong with the files there, a trained run does not fail for it.
    """
    try:
        yield
    except Exception as error:
        if not gan.trained:
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        log.warning("%s could not be made (%s)", what, reason)


@contextmanager
def maintenance(gan: GAN, doing: str = "") -> Iterator[None]:
    """Time spent inside is not training's; people are told `doing` if it takes long."""
    start, gan.control.doing = time.perf_counter(), doing
    yield
    gan.control.doing = ""
    gan.control.maintenance_seconds += time.perf_counter() - start
