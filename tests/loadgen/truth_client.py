"""A plain client of the ground-truth server: requests as engines' clients send them, answers and metrics read."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.loadgen.conftest import HANG_S, Truth

Start = Callable[..., Truth]
FAST = ("--ttft", "5", "--gap", "1")
PROMPT = "one two three four"


@dataclass
class Got:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        found = re.findall(rb"^data: (.*)$", self.body, re.M)
        assert found[-1] == b"[DONE]"
        return [json.loads(one) for one in found[:-1]]


def call(server: Truth, path: str, body: Any = None, *, method: str | None = None, **headers: str) -> Got:
    host = server.url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=HANG_S)
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    connection.request(method or ("GET" if body is None else "POST"), path, data, headers)
    answer = connection.getresponse()
    got = Got(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
    connection.close()
    return got


def chat(server: Truth, *, name: str = "r", **fields: Any) -> Got:
    body = {"model": "m", "messages": [{"role": "user", "content": PROMPT}], **fields}
    return call(server, "/v1/chat/completions", body, **{"x-request-id": name})


def streamed(server: Truth, *, name: str = "r", usage: bool = True, **fields: Any) -> Got:
    options = {"include_usage": True, **fields.pop("stream_options", {})} if usage else None
    return chat(server, name=name, stream=True, **({"stream_options": options} if options else {}), **fields)


def samples(text: str) -> dict[str, float]:
    """Prometheus samples by name and labels, those of the engine itself left out."""
    found = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            name = re.sub(r'engine="0",model_name="truth",?', "", name).replace("{}", "")
            assert name not in found
            found[name] = float(value)
    return found
