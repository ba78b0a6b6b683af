"""What a model that translates makes of some test images, for a person to look at."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from ganzoo.data.pixels import to_float
from ganzoo.engine.kinds import Translating
from ganzoo.pictures.grids import GAP, named_rows, progress_strip


class Panel:
    """Test images of both domains, in columns, and what becomes of them, in rows.

    For each domain: the real images, what they are translated to, what comes back of that, and what
    the other generator makes of the real images, which should leave them as they are (identity).

    Args:
        data: `Unpaired`.
        count: images of each domain, evenly spaced; where pairs are known, both images of a pair.
    """

    def __init__(self, gan: Translating, data: Any, count: int) -> None:
        domains, _ = data.tests()
        self.tile: tuple[int, int] = data.image_size
        self.images: dict[str, Tensor] = {}
        self.columns = min(count, *(len(test.source) for test in domains.values()))
        for name, test in domains.items():
            numbers = [i * len(test.source) // self.columns for i in range(self.columns)]
            self.images[name] = to_float(test.read(numbers, gan.device))
        self.names: list[str] = []  # of the rows

    def picture(self, gan: Translating, raw: bool = False) -> Image.Image:
        """The rows, each with its name at its left."""
        rows: dict[str, Tensor] = {}
        for domain, real in self.images.items():
            other = "B" if domain == "A" else "A"
            forth, back = f"{domain}to{other}", f"{other}to{domain}"
            rows[f"real {domain}"] = real
            if forth in gan.directions:
                rows[f"fake {other}"] = gan.translate_many(real, forth, raw)
            if {forth, back} <= set(gan.directions):
                again = gan.translate_many(rows[f"fake {other}"], back, raw)
                rows[f"reconstructed {domain}"] = again
            if back in gan.directions and real.shape[1] == self.images[other].shape[1]:
                rows[f"identity {domain}"] = gan.translate_many(real, back, raw)
        self.names = list(rows)
        return named_rows(rows)

    def progress(self, panels: Mapping[str, Path]) -> Image.Image:
        """Real images of each domain, and under them their translations in each of some panels."""
        rows = []
        width = self.columns * (self.tile[1] + GAP) - GAP
        last = list(panels.values())[-1]
        for domain, other in (("A", "B"), ("B", "A")):
            if f"fake {other}" not in self.names:
                continue
            for name, path, row in (
                (f"real {domain}", last, f"real {domain}"),
                *((name, path, f"fake {other}") for name, path in panels.items()),
            ):
                picture = Image.open(path)
                top = self.names.index(row) * (self.tile[0] + GAP)
                box = (picture.width - width, top, picture.width, top + self.tile[0])
                rows.append((name, picture.crop(box)))
        return progress_strip(rows, self.tile)
