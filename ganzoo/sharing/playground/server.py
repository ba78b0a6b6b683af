"""A web server for one person on one machine."""

import os
import sys
import webbrowser
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from ganzoo.errors import UserError
from ganzoo.sharing.playground import POLICY

HOST = "127.0.0.1"
OURS = (HOST, "localhost")


class Handler(SimpleHTTPRequestHandler):
    """Files of one folder, only for pages that ask for this machine by its name."""

    extensions_map = {  # noqa: RUF012  as the base class has it
        **SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".gz": "application/octet-stream",
    }

    def do_GET(self) -> None:
        # Another site's name could be made to point here.
        if (self.headers.get("Host") or "").rpartition(":")[0] not in OURS:
            self.send_error(403)
        else:
            super().do_GET()

    def end_headers(self) -> None:
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def server(folder: Path, port: int = 0) -> ThreadingHTTPServer:
    """A server of a folder that is not serving yet; port 0 takes any that is free.

    Raises:
        UserError: the port is taken.
    """
    try:
        return ThreadingHTTPServer((HOST, port), partial(Handler, directory=str(folder)))
    except OSError as error:
        raise UserError(
            f"Port {port} cannot be used ({error.strerror}): choose another."
        ) from error


def address(serving: ThreadingHTTPServer) -> str:
    return f"http://{HOST}:{serving.server_address[1]}/"


def show(url: str) -> None:
    """Open a page in the browser, if there is a screen."""
    screen = sys.platform in ("darwin", "win32") or {"DISPLAY", "WAYLAND_DISPLAY"} & {*os.environ}
    if screen:
        webbrowser.open(url)
