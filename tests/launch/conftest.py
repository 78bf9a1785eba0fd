"""Fixtures of the launch tests: specs of cells this machine can serve, and small HTTP servers that play roles."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from accelbench_assets.engines.registry import local_target
from accelbench_assets.engines.weights import DEMO_MODEL, DEMO_MODEL_ID
from accelbench_assets.launch.base import ServerSpec
from accelbench_assets.launch.host import endpoint_instance, local_instance
from partitions.cell import BenchmarkCell, Deployment
from tests.launch.tiny_api import TinyApi, tiny_api

SpecMaker = Callable[..., ServerSpec]


@pytest.fixture
def make_spec(tmp_path: Path) -> SpecMaker:
    """A spec of the demo model on this machine; keywords replace fields of the cell, deployment or spec."""

    def make(**changes: Any) -> ServerSpec:
        target = local_target("llamacpp", DEMO_MODEL, tmp_path)
        cell = {
            "model": target.model,
            "revision": target.revision,
            "instance": local_instance(),
            "engine": target.engine,
            "engine_version": target.engine_version,
            "workload": "demo.chat@1",
        }
        deployment: dict[str, Any] = {"quantization": target.quantization, "max_model_len": 512}
        spec: dict[str, Any] = {"run_id": "run-1", "model_id": DEMO_MODEL_ID}
        for name, value in changes.items():
            fields = cell if name in cell else spec if name in ServerSpec.__slots__ else deployment
            fields[name] = value
        work_dir = tmp_path / "work"
        work_dir.mkdir(exist_ok=True)
        return ServerSpec(
            cell=BenchmarkCell(**cell, deployment=Deployment(**deployment)), work_dir=work_dir, **spec
        )

    return make


@dataclass
class FakeServer:
    """An OpenAI-compatible server whose answers a test sets: path -> (status, headers, body)."""

    url: str = ""
    routes: dict[str, tuple[int, Mapping[str, str], Any]] = field(default_factory=dict)
    api_key: str | None = None
    refuse_ignore_eos: bool = False
    seen: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)

    def serve_models(self, *names: str, owned_by: str = "someone", **headers: str) -> None:
        rows = [{"id": name, "object": "model", "owned_by": owned_by} for name in names]
        sent = {k.replace("_", "-"): v for k, v in headers.items()}
        self.routes["/v1/models"] = (200, sent, {"object": "list", "data": rows})

    def serve_completions(self, tokens: int = 16, **headers: str) -> None:
        sent = {k.replace("_", "-"): v for k, v in headers.items()}
        choice = {"message": {"role": "assistant", "content": "ok ok"}, "finish_reason": "length"}
        body = {"choices": [choice], "usage": {"completion_tokens": tokens}}
        self.routes["/v1/chat/completions"] = (200, sent, body)

    def answer(self, path: str, headers: dict[str, str], body: Any) -> tuple[int, Mapping[str, str], Any]:
        self.seen.append((path, headers, body))
        sent_key = headers.get("authorization")
        if self.api_key is not None and sent_key != f"Bearer {self.api_key}":
            return 401, {}, {"error": f"bad key {sent_key}"}
        if self.refuse_ignore_eos and isinstance(body, dict) and "ignore_eos" in body:
            return 400, {}, {"error": "Unrecognized request argument supplied: ignore_eos"}
        return self.routes.get(path, (404, {}, {"error": "not found"}))


@pytest.fixture
def fake_server() -> Iterator[FakeServer]:
    fake = FakeServer()

    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version = "fake", ""

        def do_GET(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            seen = {k.lower(): v for k, v in self.headers.items()}
            status, headers, answer = fake.answer(self.path, seen, body)
            payload = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(payload))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(payload)

        do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        fake.url = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield fake
        server.shutdown()


@pytest.fixture
def endpoint_spec(make_spec: SpecMaker, fake_server: FakeServer) -> SpecMaker:
    """A spec of the fake server, of an unnamed engine."""

    def make(**changes: Any) -> ServerSpec:
        url = changes.pop("endpoint_url", fake_server.url)
        fields = {
            "endpoint_url": url,
            "instance": endpoint_instance(url),
            "engine": "openai",
            "engine_version": "unstated",
            "revision": "unstated",
            "quantization": "none",
        }
        return make_spec(**{**fields, **changes})

    return make


@pytest.fixture
def api() -> Iterator[TinyApi]:
    """The Kubernetes API of a few objects and no cluster."""
    with tiny_api() as running:
        yield running
