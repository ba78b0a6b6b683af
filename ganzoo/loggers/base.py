"""What every logger of a run accepts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from PIL import Image


class RunLogger(Logger):
    """A Lightning logger that also accepts pictures, tables, facts and checkpoints.

    It ignores all of them: a subclass overrides the methods for what it can show.
    """

    def log_picture(self, name: str, picture: Image.Image, images_seen: int) -> None:
        """Log a picture, which is in the run folder as well."""

    def log_sheet(
        self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], images_seen: int
    ) -> None:
        """Log a table whose cells are numbers, texts and pictures."""

    def log_facts(self, config: Mapping[str, Any], summary: Mapping[str, Any]) -> None:
        """Log facts about the run: the protocols of its metrics, and its best result."""

    def log_checkpoint(self, path: Path, images_seen: int) -> None:
        """Log a checkpoint that was just written."""
