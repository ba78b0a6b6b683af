"""The page that runs a network in a browser: its template, scripts and style, put together."""

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

HERE = Path(__file__).parent
# In the order in which they become APP.
SCRIPTS = ("random.js", "files.js", "page.js", "seeds.js", "translation.js", "main.js")
APP, WORKER, STYLE, FACTS, INDEX = (
    "app.js",
    "worker.js",
    "style.css",
    "playground.json",
    "index.html",
)
SIZES = (256, 512, 1024)  # longest sides of photos that are offered
RULES = "img-src 'self' data: blob:; media-src 'self' blob:; base-uri 'none'; form-action 'none'"
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; "
    f"style-src 'self'; connect-src 'self'; {RULES}"
)


@dataclass
class Page:
    """What a page shows and needs.

    Attributes:
        title, name: its title; the start of the names of saved files.
        facts: for the scripts; see `Facts` in page.js. `parts` and `name` are added here.
        rows: what is known of the network, for people.
        scores: values of metrics, as `card.Value`.
        version: of ganzoo.
        picture: the name of the file with samples; empty if there is none.
        networks: names of the files that are loaded before the start.
        files: every file but those of the page itself, by name.
    """

    title: str
    name: str
    facts: dict[str, Any]
    rows: Mapping[str, str]
    scores: list[Any]
    version: str
    picture: str = ""
    networks: tuple[str, ...] = ()
    files: dict[str, bytes] = field(default_factory=dict)

    def folder(self) -> dict[str, bytes]:
        """The files of the page for a web server, by name."""
        made = {APP: app(), WORKER: _read(WORKER), STYLE: _read(STYLE), FACTS: self._facts()}
        html = self._html(policy=POLICY, picture=self.picture)
        return {**self.files, **made, INDEX: html}

    def single(self) -> bytes:
        """The page as one file, which a browser opens without a web server.

        Its script and its style are in the page. A policy allows these two, and what the script
        itself starts (strict-dynamic).
        """
        code, style = app().decode(), _read(STYLE).decode()
        policy = (
            f"default-src 'none'; script-src 'sha256-{_digest(code)}' 'strict-dynamic' "
            f"'wasm-unsafe-eval'; worker-src blob:; style-src 'sha256-{_digest(style)}'; {RULES}"
        )
        files = {**self.files, WORKER: _read(WORKER), FACTS: self._facts()}
        picture = files.pop(self.picture, b"")
        return self._html(
            policy=policy,
            picture=f"data:image/png;base64,{_text(picture)}" if picture else "",
            code=Markup(code),
            style=Markup(style),
            embedded={name: _text(_packed(data)) for name, data in files.items()},
        )

    def _facts(self) -> bytes:
        parts = {name: len(self.files[name]) for name in self.networks}
        return json.dumps({**self.facts, "name": self.name, "parts": parts}).encode()

    def _html(self, policy: str, picture: str, **inside: Any) -> bytes:
        environment = jinja2.Environment(
            autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
        )
        shape = self.facts["arrays"].get("directions", {"shape": [0]})["shape"]
        return (
            environment.from_string(_read("page.html.j2").decode())
            .render(
                title=self.title,
                kind=self.facts["kind"],
                nudges=shape[0],
                sizes=SIZES,
                chosen=SIZES[1],
                rows=self.rows,
                scores=self.scores,
                version=self.version,
                license=_read("onnxruntime.txt").decode(),
                policy=policy,
                picture=picture,
                **{"code": "", "style": "", "embedded": {}, **inside},
            )
            .encode()
        )


def app() -> bytes:
    """All scripts of the page as one module, without imports and exports."""
    text = "\n".join(_read(name).decode() for name in SCRIPTS)
    text = re.sub(r"^import [^;]*;\n", "", text, flags=re.MULTILINE)
    return re.sub(r"^export ", "", text, flags=re.MULTILINE).encode()


def _read(name: str) -> bytes:
    return (HERE / name).read_bytes()


def _packed(data: bytes) -> bytes:
    """Compressed, unless it is already; page.js recognizes both."""
    return data if data[:2] == b"\x1f\x8b" else gzip.compress(data, mtime=0)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _digest(text: str) -> str:
    return _text(hashlib.sha256(text.encode()).digest())
