"""A page of images before and after translation, in one file; its layout is in page.html."""

import base64
import io
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import jinja2
from PIL import Image
from torch import Tensor

from ganzoo.data.pixels import rgb
from ganzoo.disk import write_whole
from ganzoo.errors import shown

SIDE = 256  # pixels of the longer side of a picture on the page, at most


class Page:
    """HTML that contains small pictures and links to the full images next to it, in `folder`."""

    def __init__(self, title: str, folder: Path) -> None:
        self.title, self.folder = title, folder
        self._figures: dict[str, dict[str, str]] = {}

    def add(self, name: str, before: Tensor, after: Tensor, path: Path) -> None:
        """Add an image, uint8 [C, H, W], and its translation, which was written to `path`."""
        self._figures[name] = {
            "name": shown(name),
            "size": f"{before.shape[2]} x {before.shape[1]}",
            "link": quote(os.fsencode(os.path.relpath(path, self.folder).replace(os.sep, "/"))),
            "before": _jpeg(before),
            "after": _jpeg(after),
        }

    def write(self, path: Path, bad: Mapping[str, str]) -> None:
        """Write the page; `bad`: why images were not translated, by name."""
        source = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
        html = (
            jinja2.Environment(autoescape=True)
            .from_string(source)
            .render(
                title=self.title,
                figures=[self._figures[name] for name in sorted(self._figures)],
                bad=[f"{shown(name)}: {shown(why)}" for name, why in bad.items()],
            )
        )
        write_whole(path, html)


def _jpeg(image: Tensor) -> str:
    """An image as a small JPEG in base64; transparency is laid on white."""
    small = Image.fromarray(rgb(image[None])[0].permute(1, 2, 0).contiguous().numpy())
    small.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=90, subsampling=0)
    return base64.b64encode(file.getvalue()).decode()
