"""A browser for tests, and a screenshot of a page, with a picture chosen, for the docs:

python tests/makers/browser.py FOLDER docs/playground.png 4
"""

import io
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
from PIL import Image

from ganzoo.errors import UserError
from ganzoo.runs.playing import runtime_cache
from ganzoo.sharing.playground import runtime, server

TOOLS = Path(__file__).parent.parent / "browser" / "node_modules"  # see package.json next to it
PATIENCE = 30  # seconds
ARGUMENTS = [
    "--no-sandbox",  # CI is root
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]
# The pixels of canvases as lists of RGBA, and their heights and widths.
PIXELS = """canvases => canvases.map(c =>
    [c.height, c.width, ...c.getContext('2d').getImageData(0, 0, c.width, c.height).data])"""


def missing() -> str:
    """Why there is no browser; empty if there is one, and what runs networks in it."""
    try:
        import playwright  # noqa: F401

        runtime.load(runtime_cache())
    except ImportError:
        return "needs the extra browser"
    except UserError:
        return f"needs {runtime.PACKAGE}: run make test-browser-tools"
    return "" if shutil.which("chromium") else "needs chromium: run make test-browser-tools"


@dataclass
class Visit:
    """A page that is open, and what went wrong on it.

    Attributes:
        page: Playwright's page.
        errors: messages of the console, errors of scripts.
        requests: addresses of all that was asked for.
    """

    page: Any
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def pixels(self, selector: str) -> np.ndarray:
        """uint8 [N, H, W, 4] of the canvases."""
        found = self.page.locator(selector).evaluate_all(PIXELS)
        return np.stack([np.array(p, np.uint8).reshape(h, w, 4) for h, w, *p in found])

    def hear(self, message: Any) -> None:
        """Remember a message of the console, but not that tests read canvases often."""
        if message.type in ("error", "warning") and "willReadFrequently" not in message.text:
            self.errors.append(f"{message.type}: {message.text}")

    def settled(self) -> None:
        """Wait until everything is drawn."""
        self.page.wait_for_selector("#grid[aria-busy=false]")

    def until(self, condition: str) -> None:
        """Wait until JavaScript is true; Playwright's own way needs `eval` in the page."""
        end = time.monotonic() + PATIENCE
        while not self.page.evaluate(condition):
            assert time.monotonic() < end, condition
            time.sleep(0.02)

    def saved(self, selector: str) -> Path:
        """The file that a button saves."""
        with self.page.expect_download() as download:
            self.page.click(selector)
        return Path(download.value.path())


@contextmanager
def chromium() -> Iterator[Any]:
    """Debian's browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=ARGUMENTS
        )
        yield browser
        browser.close()


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address of a folder that is served."""
    with server.server(folder) as found:
        Thread(target=found.serve_forever, args=[0.01], daemon=True).start()
        yield server.address(found)
        found.shutdown()


@contextmanager
def visit(browser: Any, url: str, ready: bool = True, **options: Any) -> Iterator[Visit]:
    """Open a page, and wait until it is ready unless told otherwise."""
    context = browser.new_context(**options)
    context.set_default_timeout(1000 * PATIENCE)
    page = context.new_page()
    found = Visit(page)
    page.on("console", found.hear)
    page.on("pageerror", lambda error: found.errors.append(str(error)))
    context.on("request", lambda request: found.requests.append(request.url))
    page.goto(url)
    if ready:
        page.wait_for_selector("body[data-ready]")
    yield found
    context.close()


if __name__ == "__main__":
    folder, picture, *seeds = sys.argv[1:]
    with (
        chromium() as browser,
        serving(Path(folder)) as url,
        visit(browser, url, viewport={"width": 1000, "height": 860}) as page,
    ):
        for seed in seeds:
            page.page.locator("#grid button").nth(int(seed)).click()
        page.settled()
        page.page.evaluate("scrollTo(0, 0)")
        shot = Image.open(io.BytesIO(page.page.screenshot()))
        shot.quantize(128).save(picture, optimize=True)
