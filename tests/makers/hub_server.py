"""A stand-in for the Hugging Face Hub on this machine: the endpoints that the client uses."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import yaml

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_token_of_a_test"


@dataclass
class Hub:
    """What the server knows: files by repository, who is private, what was asked."""

    url: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    revisions: tuple[str, ...] = ("main", "v1", COMMIT)


@contextmanager
def serving() -> Iterator[Hub]:
    """Serve a hub on a free port of this machine."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def answer(self, content: Any, status: int = 200, **headers: str) -> None:
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def refuse(self, code: str, status: int = 404) -> None:
            self.answer({"error": code}, status, X_Error_Code=code)

        def allowed(self) -> bool:
            return self.headers.get("Authorization") == f"Bearer {TOKEN}"

        def do_GET(self) -> None:
            hub.asked.append(f"{self.command} {self.path}")
            path = self.path.partition("?")[0]
            if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                self.file(*found.groups())
            elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(revision|tree)/(.+)", path):
                self.about(*found.groups())
            elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)", path):
                self.about(found[1], "revision", "main")
            else:
                self.refuse("EntryNotFound")

        do_HEAD = do_GET

        def file(self, repository: str, revision: str, name: str) -> None:
            content = hub.files.get(repository, {}).get(name)
            if content is None:
                return self.refuse("EntryNotFound")
            return self.answer(content, ETag=f'"{digest(content)}"', X_Repo_Commit=COMMIT)

        def about(self, repository: str, what: str, revision: str) -> None:
            if repository not in hub.files or (hub.private.get(repository) and not self.allowed()):
                return self.refuse("RepoNotFound")
            if revision not in hub.revisions:
                return self.refuse("RevisionNotFound")
            files = hub.files[repository]
            if what == "tree":
                return self.answer([
                    {"type": "file", "path": name, "size": len(content), "oid": digest(content)}
                    for name, content in files.items()
                ])  # fmt: skip
            siblings = [{"rfilename": name} for name in files]
            return self.answer({"id": repository, "sha": COMMIT, "siblings": siblings})

        def do_POST(self) -> None:
            hub.asked.append(f"{self.command} {self.path}")
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if not self.allowed():
                return self.refuse("Unauthorized", 401)
            if self.path == "/api/repos/create":
                asked = json.loads(body)
                name = f"{asked.get('organization')}/{asked['name']}"
                hub.files.setdefault(name, {})
                private = asked.get("private") or asked.get("visibility") == "private"
                hub.private.setdefault(name, bool(private))
                return self.answer({"url": f"{hub.url}/{name}"})
            if self.path == "/api/validate-yaml":
                header = re.match(r"---\n(.*?)\n---\n", json.loads(body)["content"], re.DOTALL)
                known = isinstance(yaml.safe_load(header[1]), dict) if header else False
                errors = [] if known else [{"message": "no header"}]
                return self.answer({"errors": errors, "warnings": []}, 200 if known else 400)
            if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/main", self.path):
                files = json.loads(body)["files"]
                modes = [
                    {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for f in files
                ]
                return self.answer({"files": modes})
            if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", self.path):
                for line in body.decode().splitlines():
                    entry = json.loads(line)
                    if entry["key"] == "file":
                        content = base64.b64decode(entry["value"]["content"])
                        hub.files[found[1]][entry["value"]["path"]] = content
                url = f"{hub.url}/{found[1]}/commit/{COMMIT}"
                return self.answer({"success": True, "commitOid": COMMIT, "commitUrl": url})
            return self.refuse("EntryNotFound")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, args=[0.01], daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def digest(content: bytes) -> str:
    """The name that git gives a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
