"""Pictures of test images and their translations, for models that translate."""

from collections.abc import Mapping
from pathlib import Path

from PIL import Image
from torch import Tensor

from ganzoo.data.images import ImageData
from ganzoo.data.pixels import to_float
from ganzoo.data.unpaired import Unpaired
from ganzoo.engine.kinds import Translating
from ganzoo.errors import UserError
from ganzoo.pictures.grids import GAP, named_rows, progress_strip


class Translations:
    """Test images of both domains in columns, and what becomes of them in rows.

    For each domain: the real images, their translations, the translations of these back
    (reconstruction), and what the other generator makes of the real images, which should leave them
    unchanged (identity). There are `count` of each domain, evenly spaced; of pairs, both are shown.
    """

    def __init__(self, gan: Translating, data: ImageData | Unpaired, count: int) -> None:
        if not isinstance(data, Unpaired):
            raise UserError("Translations need data of two domains: choose data=emoji_unpaired.")
        self.gan = gan
        domains, _ = data.tests()
        self.tile: tuple[int, int] = data.image_size
        self.images: dict[str, Tensor] = {}
        self.columns = min(count, *(len(test.source) for test in domains.values()))
        for name, test in domains.items():
            numbers = [i * len(test.source) // self.columns for i in range(self.columns)]
            self.images[name] = to_float(test.read(numbers, gan.device))
        self.names: list[str] = []  # of the rows

    def draw(self, raw: bool) -> Image.Image:
        """The picture, each row with its name to its left."""
        gan, rows = self.gan, {}
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

    def progress(self, grids: Mapping[str, Path]) -> Image.Image:
        """Real images of each domain, and below them their translations in each of some grids."""
        rows = []
        width = self.columns * (self.tile[1] + GAP) - GAP
        last = list(grids.values())[-1]
        for domain, other in (("A", "B"), ("B", "A")):
            if f"fake {other}" not in self.names:
                continue
            for name, path, row in (
                (f"real {domain}", last, f"real {domain}"),
                *((name, path, f"fake {other}") for name, path in grids.items()),
            ):
                picture = Image.open(path)
                top = self.names.index(row) * (self.tile[0] + GAP)
                box = (picture.width - width, top, picture.width, top + self.tile[0])
                rows.append((name, picture.crop(box)))
        return progress_strip(rows, self.tile)
