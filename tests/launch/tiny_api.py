"""A few objects behind an HTTP server that answers as the Kubernetes API does, and fails when a test says so.

For the client's own behaviour only: nothing runs here. Whole clusters are the emulator's business (``kube``).
"""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from accelbench_assets.launch.kube.client import Cluster

KINDS = {
    "configmaps": "ConfigMap",
    "deployments": "Deployment",
    "jobs": "Job",
    "leases": "Lease",
    "namespaces": "Namespace",
    "nodes": "Node",
    "pods": "Pod",
    "replicasets": "ReplicaSet",
    "secrets": "Secret",
    "services": "Service",
}


def now_text() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def status(code: int, reason: str, message: str, **details: Any) -> dict[str, Any]:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": message,
        "details": details,
    }


@dataclass
class Fault:
    """Hits the next *times* requests of *method* whose path holds *path*."""

    method: str
    path: str
    do: str  # status | drop (before it is handled) | lose (the answer, after it was handled) | freeze
    code: int = 500
    body: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    times: int = 1
    seconds: float = 0.0


Raw = Callable[[BaseHTTPRequestHandler, dict[str, str]], None]


class TinyApi:
    """``objects`` by path; ``faults`` are used up in order; ``raw`` answers whole requests by path."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.faults: list[Fault] = []
        self.raw: dict[str, Raw] = {}
        self.requests: list[tuple[str, str, dict[str, str], dict[str, str], Any]] = []
        self.keep_pods = False  # a delete marks pods only, as it does while a kubelet stops them
        self.lock = threading.RLock()
        self.url = ""

    def calls(self, method: str, part: str = "") -> int:
        return sum(1 for m, path, *_ in self.requests if m == method and part in path)

    def put(
        self, resource: str, name: str, prefix: str = "/api/v1/namespaces/ns", **fields: Any
    ) -> dict[str, Any]:
        metadata = {"name": name, "uid": str(uuid.uuid4()), "creationTimestamp": now_text()}
        metadata |= fields.pop("metadata", {})
        self.objects[f"{prefix}/{resource}/{name}"] = {**fields, "metadata": metadata}
        return self.objects[f"{prefix}/{resource}/{name}"]

    def handle(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, dict[str, Any]]:
        if path == "/version":
            return 200, {"gitVersion": "v1.36.2-tiny"}
        before, last = path.rsplit("/", 1)
        resource, name = (last, "") if last in KINDS else (before.rsplit("/", 1)[1], last)
        gone = status(404, "NotFound", f'{resource} "{name}" not found', kind=resource, name=name)
        if method == "POST":
            where = f"{path}/{body['metadata']['name']}"
            if where in self.objects:
                return 409, status(
                    409, "AlreadyExists", f'{resource} "{body["metadata"]["name"]}" already exists'
                )
            made = {
                **body,
                "metadata": {**body["metadata"], "uid": str(uuid.uuid4()), "creationTimestamp": now_text()},
            }
            self.objects[where] = made
            return 201, made
        if method == "GET" and not name:
            wanted = dict(
                part.split("=", 1) for part in query.get("labelSelector", "").split(",") if "=" in part
            )
            found = [
                one
                for where, one in sorted(self.objects.items())
                if where.rsplit("/", 1)[0] == path
                and wanted.items() <= (one["metadata"].get("labels") or {}).items()
            ]
            start, size = int(query.get("continue") or 0), int(query.get("limit") or 500)
            more = {"continue": str(start + size)} if len(found) > start + size else {}
            return 200, {
                "kind": f"{KINDS[resource]}List",
                "metadata": more,
                "items": found[start : start + size],
            }
        if path not in self.objects:
            return 404, gone
        if method == "GET":
            return 200, self.objects[path]
        if method == "PATCH":
            self.objects[path] = _merged(self.objects[path], body)
            return 200, self.objects[path]
        one = self.objects[path]
        if resource == "pods" and self.keep_pods and body.get("gracePeriodSeconds") != 0:
            one["metadata"].setdefault("deletionTimestamp", now_text())
            return 200, one
        del self.objects[path]
        return 200, {"kind": "Status", "apiVersion": "v1", "status": "Success"}

    def fault(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.method == method and fault.path in path:
                fault.times -= 1
                if fault.times <= 0:
                    self.faults.remove(fault)
                return fault
        return None


def _merged(old: Any, new: Any) -> Any:
    if not isinstance(new, dict):
        return new
    kept = dict(old) if isinstance(old, dict) else {}
    for name, value in new.items():
        if value is None:
            kept.pop(name, None)
        else:
            kept[name] = _merged(kept.get(name), value)
    return kept


def _handler(api: TinyApi) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            where, length = urlsplit(self.path), int(self.headers.get("content-length") or 0)
            content = self.rfile.read(length) if length else b""
            body = json.loads(content) if content else None
            query = {k: v[-1] for k, v in parse_qs(where.query).items()}
            with api.lock:
                headers = {k.lower(): v for k, v in self.headers.items()}
                api.requests.append((self.command, where.path, query, headers, body))
                fault = api.fault(self.command, where.path)
            if fault is not None and fault.do == "drop":
                return self._hang_up()
            if fault is not None and fault.do == "freeze":
                time.sleep(fault.seconds)
                return self._hang_up()
            if fault is not None and fault.do == "status":
                return self._answer(
                    fault.code, fault.body or status(fault.code, "", "injected"), fault.headers
                )
            if where.path in api.raw:
                return api.raw[where.path](self, query)
            with api.lock:
                code, answer = api.handle(self.command, where.path, query, body)
            if fault is not None:
                return self._hang_up()
            return self._answer(code, answer, {})

        do_POST = do_PATCH = do_DELETE = do_GET

        def _hang_up(self) -> None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

        def _answer(self, code: int, answer: Mapping[str, Any], headers: Mapping[str, str]) -> None:
            payload = json.dumps(answer).encode()
            self.send_response(code)
            for name, value in {"Content-Type": "application/json", **headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


@contextmanager
def tiny_api(tls: ssl.SSLContext | None = None) -> Iterator[TinyApi]:
    api = TinyApi()
    api.put("namespaces", "ns", prefix="/api/v1", metadata={"uid": "uid-of-ns"})
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(api)) as server:
        server.daemon_threads = True
        server.block_on_close = False
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients hang up in the middle here
        api.url = f"http{'s' if tls else ''}://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield api
        server.shutdown()


def cluster_of(api: TinyApi, authority: str | None = None, **limits: Any) -> Cluster:
    from kubernetes import client

    configuration = client.Configuration(host=api.url)
    configuration.api_key["BearerToken"] = "Bearer the-token-of-the-test"
    configuration.retries = False
    configuration.proxy = None
    configuration.ssl_ca_cert = authority
    return Cluster(client.ApiClient(configuration), "ns", **{"timeout_s": 5.0, "retry_s": 10.0, **limits})


def chunks(handler: BaseHTTPRequestHandler, *pieces: bytes, end: bool = True) -> None:
    """Answer 200 with a chunked body, as a log is streamed; without *end* the stream breaks off."""
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    for piece in pieces:
        handler.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        handler.wfile.flush()
    if end:
        handler.wfile.write(b"0\r\n\r\n")
    else:
        handler.close_connection = True
        handler.connection.shutdown(socket.SHUT_RDWR)
