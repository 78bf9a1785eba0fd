"""The package index, an image registry and the model hub, small and real: one HTTP server on this machine."""

import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN = "anonymous-token-of-the-registry"
MANIFEST = b'{"schemaVersion":2}'


@dataclass
class Sources:
    """What the server tells; change it while it runs. ``asked`` lists every request it saw."""

    versions: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    images: dict[str, dict[str, str]] = field(default_factory=dict)  # repository -> tag -> digest
    commits: dict[str, str] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    down: bool = False
    status: int | None = None
    body: bytes | None = None
    drip_s: float | None = None
    redirect_to: str = ""
    token_flow: bool = True
    wants_password: bool = False
    page: int = 1000
    digest_header: bool = True
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    url: str = ""

    def release(self, *versions: str) -> None:
        for version in versions:
            self.versions[version] = [{"filename": f"vllm-{version}.whl", "yanked": False}]

    def image(self, repository: str, tag: str, digit: str = "a") -> str:
        digest = f"sha256:{digit * 64}"
        self.images.setdefault(repository, {})[tag] = digest
        return digest

    def paths(self) -> list[str]:
        return [path for _, path, _ in self.asked]


def handler(state: Sources) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "HEAD":
                return
            for at in range(0, len(body), 8) if state.drip_s else [0]:
                self.wfile.write(body[at : at + 8] if state.drip_s else body)
                if state.drip_s:
                    self.wfile.flush()
                    time.sleep(state.drip_s)

        def document(self, status: int, found: object, **headers: str) -> None:
            self.answer(status, json.dumps(found).encode(), Content_Type="application/json", **headers)

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            state.asked.append((self.command, self.path, dict(self.headers)))
            if state.down:
                self.close_connection = True
                return
            if state.status is not None or state.body is not None:
                return self.answer(state.status or 200, state.body or b"")
            parts = urlsplit(self.path)
            path = parts.path
            if path.startswith("/pypi/vllm/json"):
                return self.document(200, {"info": {}, "releases": state.versions})
            if path == "/moved":
                return self.answer(307, Location=state.redirect_to)
            if path == "/token":
                return self.document(200, {"token": TOKEN})
            if path.startswith("/v2/"):
                return self.registry(path, parse_qs(parts.query))
            if path.startswith("/api/models/"):
                return self.model(path.removeprefix("/api/models/"))
            return self.document(404, {})

        def registry(self, path: str, query: dict[str, list[str]]) -> None:
            if state.wants_password:
                return self.document(401, {}, WWW_Authenticate='Basic realm="registry"')
            if state.token_flow and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                realm = f'Bearer realm="{state.url}/token",service="images",scope="pull"'
                return self.document(401, {"errors": []}, WWW_Authenticate=realm)
            repository, _, rest = path.removeprefix("/v2/").partition(
                "/manifests/" if "/manifests/" in path else "/tags/list"
            )
            tags = state.images.get(repository)
            if tags is None:
                return self.document(404, {"errors": [{"code": "NAME_UNKNOWN"}]})
            if "/manifests/" not in path:
                names = sorted(tags)
                start = names.index(query["last"][0]) + 1 if "last" in query else 0
                page = names[start : start + state.page]
                more = {}
                if start + state.page < len(names):
                    more["Link"] = f'<{path}?n={state.page}&last={page[-1]}>; rel="next"'
                return self.document(200, {"name": repository, "tags": page}, **more)
            if rest not in tags:
                return self.document(404, {"errors": [{"code": "MANIFEST_UNKNOWN"}]})
            given = {"Docker_Content_Digest": tags[rest]} if state.digest_header else {}
            return self.answer(200, MANIFEST, **given)

        def model(self, name: str) -> None:
            if name in state.gated and not self.headers.get("Authorization"):
                return self.document(401, {"error": "gated"}, X_Error_Code="RepoNotFound")
            if name not in state.commits:
                return self.document(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
            return self.document(200, {"id": name, "sha": state.commits[name]})

    return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hung up is what some tests are about."""


class Running:
    """A server for the time of a ``with``."""

    def __init__(self, state: Sources) -> None:
        self.state = state
        self._server = _Server(("127.0.0.1", 0), handler(state))
        state.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Sources:
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()
        return self.state

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
