"""A page of images before and after, in one file."""

import base64
import html
import io
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from PIL import Image
from torch import Tensor

from ganzoo.data.pixels import rgb
from ganzoo.errors import shown

SIDE = 256  # pixels of the larger side of a picture on the page, at most

STYLE = """
body { font: 14px sans-serif; margin: 2em; }
figure { display: inline-block; margin: 0 1em 1.5em 0; }
img { vertical-align: top; min-width: 96px; image-rendering: pixelated; }
figcaption { max-width: 40em; overflow-wrap: anywhere; padding-top: 4px; }
"""


class Page:
    """HTML that holds small pictures itself and links to the whole images beside it.

    Args:
        title: of the page.
        folder: that the page will lie in.
    """

    def __init__(self, title: str, folder: Path) -> None:
        self.title, self.folder = title, folder
        self._figures: dict[str, str] = {}

    def add(self, name: str, before: Tensor, after: Tensor, path: Path) -> None:
        """Add an image, uint8 [C, H, W], and its translation, which was written to `path`."""
        link = quote(os.fsencode(os.path.relpath(path, self.folder).replace(os.sep, "/")))
        size = f"{before.shape[2]} x {before.shape[1]}"
        self._figures[name] = (
            f"<figure>{_picture(before)} <a href='{link}'>{_picture(after)}</a>"
            f"<figcaption>{html.escape(shown(name))} ({size})</figcaption></figure>"
        )

    def write(self, path: Path, bad: Mapping[str, str]) -> None:
        """Write the page; `bad` says of what there is none and why."""
        title = html.escape(self.title)
        failed = "".join(
            f"<li>{html.escape(f'{shown(name)}: {shown(why)}')}</li>" for name, why in bad.items()
        )
        with path.open("w", encoding="utf-8") as file:
            file.write(
                f"<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'><title>{title}</title>"
                f"<style>{STYLE}</style></head><body><h1>{title}</h1>"
                f"<p>{len(self._figures)} images, before and after.</p>\n"
            )
            file.writelines(f"{self._figures[name]}\n" for name in sorted(self._figures))
            file.write(f"<h2>Not translated</h2><ul>{failed}</ul>" if bad else "")
            file.write("</body></html>\n")


def _picture(image: Tensor) -> str:
    """An image, reduced if it is large, as a part of HTML; transparency lies on white."""
    small = Image.fromarray(rgb(image[None])[0].permute(1, 2, 0).contiguous().numpy())
    small.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=90, subsampling=0)
    data = base64.b64encode(file.getvalue()).decode()
    return f"<img src='data:image/jpeg;base64,{data}' loading='lazy' alt=''>"
