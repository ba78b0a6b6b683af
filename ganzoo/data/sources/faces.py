"""Cartoon faces, as `python -m ganzoo.prepare faces` draws them."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import torch

from ganzoo.data.encoded import EncodedImages, Listing
from ganzoo.data.files import open_files
from ganzoo.data.source import first, part
from ganzoo.data.sources.attributes import classes_of
from ganzoo.errors import UserError

SETTINGS, TABLE = "faces.json", "attributes.csv"


class Faces(EncodedImages):
    """Drawn faces with named attributes.

    `images/000000.png`, ... and `attributes.csv` with the columns `file` and one for each
    attribute, in a folder, zip or tar.

    Args:
        root: where they are.
        image_size, channels, resize, filter: see `Decoder`.
        attributes: names such as ["glasses", "hair"]; the combinations of their values are the
            classes.
        split: "train", "test" or "all".
        held_out: share of the images that is "test"; see `part`.
    """

    name = "faces"

    def __init__(
        self,
        root: str,
        image_size: int | Sequence[int],
        channels: int = 3,
        attributes: Sequence[str] = (),
        resize: str = "crop",
        filter: str = "bicubic",
        split: str = "train",
        held_out: float = 0.0,
    ) -> None:
        super().__init__(image_size, channels, resize, filter)
        part([], split, held_out)  # refuses what does not go together
        self.root, self.attributes = Path(root), list(attributes)
        self.split, self.held_out = split, held_out

    def _list(self) -> Listing:
        draw = f"run python -m ganzoo.prepare faces {self.root}"
        files = open_files(self.root) if self.root.exists() else None
        if files is None or TABLE not in files.names:
            raise UserError(
                f"There are no faces in {self.root}: {draw}, or set data.source.root to them."
            )
        with files.open(TABLE) as binary:
            rows = list(csv.DictReader(io.TextIOWrapper(binary, "utf-8", newline="")))
        names = [row.pop("file", "") for row in rows]
        lost = sorted({*names} ^ {name for name in files.names if name.startswith("images/")})
        if lost or not names:
            raise UserError(
                f"The images in {self.root} are not those in its {TABLE} "
                f"({first(lost) or 'there are none'}): {draw} again."
            )
        kept = part(names, self.split, self.held_out)
        notes = []
        if len(kept) < len(names):
            notes.append(f"{len(kept)} of {len(names)} images are the {self.split} split.")
        listed = [names[i] for i in kept]
        if not self.attributes:
            return Listing(files, listed, notes=notes)
        columns = {name: [f"{name}: {row[name]}" for row in rows] for name in rows[0]}
        classes, labels = classes_of(columns, self.attributes)
        return Listing(files, listed, classes, torch.tensor(labels)[kept], notes)
