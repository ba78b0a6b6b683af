"""HTML pages from the templates in `html/`: nothing from elsewhere, and no scripts of others."""

import base64
import hashlib
import os
from pathlib import Path
from urllib.parse import quote

import jinja2
from markupsafe import Markup

HTML = Path(__file__).parent / "html"


def render(template: str, script: str = "", **facts: object) -> str:
    """A page from a template in `html/`, with everything in `facts` escaped.

    The page forbids the browser all but its pictures, its own style and its own script, without
    which it also works, so that nothing in the name of a file or the text of an error can act.
    """
    style = (HTML / "style.css").read_text(encoding="utf-8")
    code = (HTML / script).read_text(encoding="utf-8") if script else ""
    policy = "default-src 'none'; img-src 'self' file:; " + "; ".join(
        f"{kind}-src 'sha256-{_digest(text)}'"
        for kind, text in (("style", style), ("script", code))
        if text
    )
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HTML), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    own = {"style": Markup(style), "script": Markup(code), "policy": policy}
    return environment.get_template(template).render(**own, **facts)


def link(path: Path, folder: Path) -> str:
    """A relative link from a page in `folder` to a file."""
    return quote(os.fsencode(os.path.relpath(path, folder).replace(os.sep, "/")))


def newest(folder: Path) -> Path | None:
    """The picture of the average generator after the most images; None if there is none."""
    found = [p for p in folder.glob("*.png") if p.stem.replace(".", "", 1).isdecimal()]
    return max(found, key=lambda path: float(path.stem), default=None)


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
