"""What every logger of a run accepts."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from PIL import Image


class RunLogger(Logger):
    """A Lightning logger that also accepts pictures, facts and checkpoints.

    It ignores all of them: a subclass overrides the methods for what it can show.
    """

    # The images seen so far. Callbacks of Lightning log by the number of batches instead, so
    # `images_seen` asks the clock.
    clock: Callable[[], int] | None = None

    def images_seen(self, step: int | None) -> int | None:
        """The images seen when something is logged, whatever step it is logged with."""
        return step if self.clock is None else self.clock()

    def log_picture(self, name: str, picture: Image.Image, images_seen: int) -> None:
        """Log a picture, which is in the run folder as well."""

    def log_facts(self, config: Mapping[str, Any], summary: Mapping[str, Any]) -> None:
        """Log facts about the run: the protocols of its metrics, and its best result."""

    def log_checkpoint(self, path: Path, images_seen: int) -> None:
        """Log a checkpoint that was just written."""
