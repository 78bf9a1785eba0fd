"""A model hub of this machine: the requests that are made, answered in the hub's form, with its ways to refuse."""

from __future__ import annotations

import json
import struct
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def header_of(tensors: dict[str, tuple[str, list[int], int]]) -> bytes:
    """A safetensors file without its data: name -> (dtype, shape, bytes)."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (dtype, shape, size) in tensors.items():
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    header = json.dumps(entries).encode()
    return struct.pack("<Q", len(header)) + header


@dataclass
class Repository:
    """A model repository: *files* by path; a value that is no bytes is served as JSON."""

    files: dict[str, Any] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    commit: str = COMMIT
    gated: Any = False
    private: bool = False
    disabled: bool = False
    tags: tuple[str, ...] = ("license:apache-2.0",)
    card: dict[str, Any] | None = None
    safetensors: dict[str, int] | None = None


@dataclass
class Hub:
    """What the server tells; change it while it runs. ``members`` are tokens that see private and gated files."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    members: set[str] = field(default_factory=set)
    strangers: set[str] = field(default_factory=set)  # tokens of accounts without access
    status: int | None = None
    silent_s: float = 0.0
    drip_s: float = 0.0
    redirect_to: str = ""
    ranges: bool = True
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    url: str = ""

    def add(self, name: str, **values: Any) -> Repository:
        repository = Repository(**values)
        self.repositories[name] = repository
        return repository


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            step = 16 if hub.drip_s else len(body) or 1
            for at in range(0, len(body), step):
                try:
                    self.wfile.write(body[at : at + step])
                    self.wfile.flush()
                except OSError:
                    return
                if hub.drip_s:
                    time.sleep(hub.drip_s)

        def refuse(self, status: int, code: str, message: str = "") -> None:
            self.reply(status, b"{}", X_Error_Code=code, X_Error_Message=message)

        def token(self) -> str | None:
            return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            hub.asked.append((self.path, dict(self.headers)))
            if hub.silent_s:
                time.sleep(hub.silent_s)
            if hub.status is not None:
                return self.reply(hub.status, b"{}")
            token = self.token()
            if token and token not in hub.members | hub.strangers:
                return self.refuse(401, "", "Invalid credentials in Authorization header")
            path = unquote(urlsplit(self.path).path)
            if path.startswith("/api/models/"):
                name, _, revision = path.removeprefix("/api/models/").partition("/revision/")
                return self.info(name, revision)
            name, _, rest = path.removeprefix("/").partition("/resolve/")
            revision, _, file = rest.partition("/")
            return self.file(name, revision, file)

        def found(self, name: str, revision: str) -> Repository | None:
            repository = hub.repositories.get(name)
            if repository is None or (repository.private and self.token() not in hub.members):
                self.refuse(401 if self.token() is None else 404, "RepoNotFound", "Repository not found")
                return None
            if repository.disabled:
                self.refuse(403, "", "Access to this resource is disabled.")
                return None
            if revision not in ("", "main", repository.commit):
                self.refuse(404, "RevisionNotFound", "Invalid rev id")
                return None
            return repository

        def info(self, name: str, revision: str) -> None:
            repository = self.found(name, revision)
            if repository is None:
                return
            document: dict[str, Any] = {
                "id": name,
                "sha": repository.commit,
                "gated": repository.gated,
                "private": repository.private,
                "tags": list(repository.tags),
                "cardData": repository.card,
                "siblings": [
                    {"rfilename": path, "size": repository.sizes.get(path, len(content(value)))}
                    for path, value in repository.files.items()
                ],
            }
            if repository.safetensors is not None:
                counts = repository.safetensors
                document["safetensors"] = {"parameters": counts, "total": sum(counts.values())}
            self.reply(200, json.dumps(document).encode(), Content_Type="application/json")

        def file(self, name: str, revision: str, path: str) -> None:
            repository = self.found(name, revision)
            if repository is None:
                return
            if repository.gated and self.token() not in hub.members:
                return self.refuse(401 if self.token() is None else 403, "GatedRepo", "Access is restricted")
            if path not in repository.files:
                return self.refuse(404, "EntryNotFound", "Entry not found")
            if hub.redirect_to:
                return self.reply(302, Location=f"{hub.redirect_to}{self.path}")
            body = content(repository.files[path])
            wanted = self.headers.get("Range")
            if wanted and hub.ranges:
                first, last = (int(one) for one in wanted.removeprefix("bytes=").split("-"))
                return self.reply(206, body[first : last + 1])
            self.reply(200, body)

    return Handler


def content(value: Any) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is no error of a test."""


class Running:
    """A hub that listens on 127.0.0.1 for as long as the block lasts."""

    def __init__(self) -> None:
        self.hub = Hub()
        self.server = _Server(("127.0.0.1", 0), handler(self.hub))
        self.hub.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self.hub

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
