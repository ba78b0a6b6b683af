"""wandb as it is on disk and on the wire: a reader of its files and a server that takes runs."""

import gzip
import json
import re
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import wandb
from wandb.proto.wandb_internal_pb2 import Record

KEY = "0123456789abcdef" * 2 + "fedcba98"  # of the form that wandb takes, and nobody's
NOWHERE = "http://127.0.0.1:9"  # where nothing listens


def records(path: Path) -> Iterator[Any]:
    """The records of a `.wandb` file, which is a LevelDB log of protocol buffers.

    Blocks of 32 KiB hold pieces of records, each after a checksum, its length and whether it is all
    of the record (1), its beginning (2), its middle (3) or its end (4).
    """
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    at, whole = 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield Record.FromString(whole)
            whole = b""


def nested(items: Any) -> dict[str, Any]:
    """Items with a `key` or `nested_key` and JSON, as dicts in dicts."""
    found: dict[str, Any] = {}
    for item in items:
        *path, last = item.nested_key or [item.key]
        inner = found
        for key in path:
            inner = inner.setdefault(key, {})
        inner[last] = json.loads(item.value_json)
    return found


class Kept:
    """What a `.wandb` file says of a run.

    Attributes:
        rows: of the history, without what wandb adds.
        metrics: definitions of the axes.
        stats: what wandb measures of the machine.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.runs: list[Any] = []
        self.config: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}
        self.metrics: list[Any] = []
        self.artifacts: list[Any] = []
        self.stats: list[Any] = []
        self.rows: list[dict[str, Any]] = []
        for record in records(file):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                self.runs.append(record.run)
                self.config |= nested(record.run.config.update)
            elif kind == "config":
                self.config |= nested(record.config.update)
            elif kind == "summary":
                self.summary |= nested(record.summary.update)
            elif kind == "history":
                row = nested(record.history.item)
                self.rows.append({k: v for k, v in row.items() if not k.startswith("_")})
            elif kind == "stats":
                self.stats += record.stats.item
            elif kind == "metric":
                self.metrics.append(record.metric)
            elif kind == "artifact":
                self.artifacts.append(record.artifact)


def kept(run_dir: Path) -> list[Kept]:
    """What wandb has kept in a run folder, the oldest first, one each time the run went on."""
    wandb.teardown()  # a run that has finished may not yet be written to the end
    files = (run_dir / "wandb").glob("*run-*/*.wandb")
    return [Kept(f) for f in sorted(files, key=lambda f: f.parent.name.removeprefix("offline-"))]


class Server(ThreadingHTTPServer):
    """As much of wandb's server as a run needs to be taken.

    Attributes:
        asked: names of the GraphQL operations, with their variables.
        lines: of the history of each run, by its id.
        uploaded: names of files.
        dead: it takes requests, and hangs up.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.runs: dict[str, dict[str, Any]] = {}
        self.lines: dict[str, list[dict[str, Any]]] = {}
        self.uploaded: list[str] = []
        self.dead = self.dies_when_started = False
        threading.Thread(target=self.serve_forever, args=[0.01], daemon=True).start()

    def handle_error(self, *_: Any) -> None:
        """Clients hang up when they have what they want."""

    def graphql(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        self.asked.append((name, given))
        project = {"id": "p", "name": "ganzoo", "entity": {"id": "e", "name": "someone"}}
        if name == "RunResumeStatus":
            known = given["name"] in self.runs
            lines = self.lines.get(given["name"], [])
            bucket = {
                **{"id": "r", "name": given["name"], "displayName": "x", "logLineCount": 0},
                **{"historyLineCount": len(lines), "eventsLineCount": 0, "eventsTail": "[]"},
                "historyTail": json.dumps([json.dumps(line) for line in lines[-1:]]),
                "summaryMetrics": json.dumps(lines[-1] if lines else {}),
                **{"config": "{}", "tags": [], "notes": "", "wandbConfig": '{"t": {"1": [1]}}'},
            }
            return {"model": {**project, "bucket": bucket if known else None}}
        if name == "UpsertBucket":
            run = self.runs.setdefault(given["name"], {})
            run.update({key: value for key, value in given.items() if value is not None})
            bucket = {"id": "r", "name": given["name"], "displayName": given["displayName"]}
            bucket |= {"project": project, "config": "{}", "historyLineCount": 0}
            self.dead = self.dies_when_started
            return {"upsertBucket": {"bucket": bucket, "inserted": True}}
        if name == "CreateRunFiles":
            files = [{"name": f, "uploadUrl": f"{self.url}/put/{f}"} for f in given["files"]]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        if name == "Viewer":
            return {"viewer": {"id": "v", "username": "someone", "entity": "someone"}}
        if name == "UpsertView2":
            return {"upsertView": {"view": {"id": "w", "name": given["name"]}, "inserted": True}}
        return {}

    def stream(self, run: str, files: dict[str, Any]) -> None:
        """Take lines of files, each at its place."""
        part = files.get("wandb-history.jsonl")
        if part is None:
            return
        lines = self.lines.setdefault(run, [])
        new = [json.loads(line) for line in part["content"]]
        lines[part["offset"] : part["offset"] + len(new)] = new


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self._body()
        if self.server.dead:
            self.close_connection = True
            return
        if self.path.startswith("/sdk/otel"):  # telemetry of its own, which a server need not take
            self.send_error(404)
            return
        told = json.loads(body)
        if self.path == "/graphql":
            name = re.search(r"(?:query|mutation)\s+(\w+)", told["query"])
            assert name is not None
            self._answer({"data": self.server.graphql(name[1], told.get("variables") or {})})
        else:
            *_, run, _ = self.path.split("/")
            self.server.stream(run, told.get("files") or {})
            self._answer({})

    def do_PUT(self) -> None:
        self._body()
        self.server.uploaded.append(self.path.removeprefix("/put/"))
        self._answer({})

    def do_GET(self) -> None:
        self._answer({})

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _answer(self, told: dict[str, Any]) -> None:
        body = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
