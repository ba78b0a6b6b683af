"""What all loggers of a run can be handed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image


class Extras:
    """What the loggers of a run are told beside Lightning's numbers; by itself it drops all."""

    def log_picture(self, name: str, picture: Image.Image, images_seen: int) -> None:
        """A picture, which lies in the run folder as well."""

    def log_sheet(
        self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], images_seen: int
    ) -> None:
        """A table of numbers, texts and pictures, a value for each column in every row."""

    def log_facts(self, config: Mapping[str, Any], summary: Mapping[str, Any]) -> None:
        """What holds of the run as a whole: how its numbers come about, and the best of them."""

    def log_checkpoint(self, path: Path, images_seen: int) -> None:
        """A checkpoint that was just written."""
