"""Logs are read and followed through every state of a pod, whatever becomes of the connection, over TLS too."""

from __future__ import annotations

import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from accelbench_assets.launch.kube import podlog
from accelbench_assets.launch.kube.client import Cluster
from accelbench_assets.launch.kube.errors import KubeError
from tests.launch.tiny_api import Fault, TinyApi, chunks, cluster_of, status, tiny_api
from tests.support.certificate import certificate

LOG = "/api/v1/namespaces/ns/pods/p/log"


def pod(api: TinyApi, state: dict[str, Any], restarts: int = 0, phase: str = "Running") -> None:
    api.put(
        "pods",
        "p",
        status={
            "phase": phase,
            "containerStatuses": [{"name": "c", "state": state, "restartCount": restarts}],
        },
    )


def stamped(*lines: str, second: int = 0) -> bytes:
    return b"".join(
        f"2026-03-01T12:00:{second + n:02d}.000000001Z {line}\n".encode() for n, line in enumerate(lines)
    )


@pytest.mark.parametrize(
    ("code", "message", "expected"),
    [
        (400, 'container "c" in pod "p" is waiting to start: ContainerCreating', ""),
        (400, 'previous terminated container "c" in pod "p" not found', ""),
        (404, 'pods "p" not found', ""),
        (404, "the server could not find the requested resource ( pods/log p)", ""),
        (500, 'Get "https://node:10250/containerLogs/ns/p/c": dial tcp: connect: connection refused', ""),
        (400, "container zz is not valid for pod p", None),
        (403, 'pods "p" is forbidden: User "b" cannot get resource "pods/log"', None),
    ],
)
def test_where_there_is_no_log_there_is_no_text(
    api: TinyApi, code: int, message: str, expected: str | None
) -> None:
    api.faults = [Fault("GET", "/log", "status", code=code, body=status(code, "", message))]
    if expected is None:
        with pytest.raises(KubeError):
            cluster_of(api).log("p", "c")
    else:
        assert cluster_of(api).log("p", "c") == expected


def test_a_log_is_its_bytes_as_text(api: TinyApi) -> None:
    texts = [b"caf\xc3\xa9 \xff\n", b"unable to retrieve container logs for containerd://abc"]
    api.raw[LOG] = lambda handler, _: chunks(handler, texts.pop(0))
    cluster = cluster_of(api)
    assert cluster.log("p", "c", tail_lines=20, previous=True) == "café �\n"
    asked = api.requests[-1][2]
    assert asked == {"container": "c", "limitBytes": str(4 * 2**20), "tailLines": "20", "previous": "true"}
    assert cluster.log("p", "c") == ""
    api.faults = [Fault("GET", "/log", "status", code=500)]
    texts.append(b"after a hiccup")
    assert cluster.log("p", "c") == "after a hiccup"


def test_a_log_is_followed_from_before_the_start_to_the_end(
    api: TinyApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(podlog, "_PAUSE_S", 0.01)
    api.put("pods", "p", status={"phase": "Pending"})
    tries = 0

    def log(handler: BaseHTTPRequestHandler, query: dict[str, str]) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:  # not yet scheduled
            chunks(handler)
        elif tries == 2:
            api.faults = []
            body = status(
                400, "BadRequest", 'container "c" in pod "p" is waiting to start: ContainerCreating'
            )
            handler._answer(400, body, {})  # type: ignore[attr-defined]
        elif tries == 3:  # the stream breaks within a line
            pod(api, {"running": {}})
            chunks(handler, stamped("one", "two"), stamped("thr")[:-1], end=False)
        elif tries == 4:
            assert query["sinceTime"] == "2026-03-01T12:00:01.000000001Z"
            pod(api, {"terminated": {"exitCode": 0}})
            chunks(handler, stamped("one", "two", "three"), stamped("last", second=3)[:-1])
        else:
            raise AssertionError("it had ended")

    api.raw[LOG] = log
    lines = list(cluster_of(api).follow_log("p", "c"))
    assert lines == ["one", "two", "three", "last"]


def test_lines_of_one_instant_are_all_kept(api: TinyApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(podlog, "_PAUSE_S", 0.01)
    pod(api, {"running": {}})
    same = [b"2026-03-01T12:00:00.000000001Z " + word + b"\n" for word in (b"a", b"b", b"c")]
    parts = [(same[:1], False), (same[:2], False), (same, True)]

    def log(handler: BaseHTTPRequestHandler, _: dict[str, str]) -> None:
        pieces, end = parts.pop(0)
        if end:
            pod(api, {"terminated": {}})
        chunks(handler, *pieces, end=end)

    api.raw[LOG] = log
    assert list(cluster_of(api).follow_log("p", "c")) == ["a", "b", "c"]


def test_without_time_stamps_lines_are_counted(api: TinyApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(podlog, "_PAUSE_S", 0.01)
    pod(api, {"running": {}})
    long = b"y" * (podlog.MAX_LINE + 5) + b"\n"
    first = b"2026-03-01T12:00:00.000000001Z is text here\n" + long
    parts = [([first, b"thr"], False), ([first, b"three\n"], True)]

    def log(handler: BaseHTTPRequestHandler, query: dict[str, str]) -> None:
        if "timestamps" in query:
            body = status(400, "BadRequest", "no time stamps here")
            return handler._answer(400, body, {})  # type: ignore[attr-defined, no-any-return]
        pieces, end = parts.pop(0)
        if end:
            pod(api, {"terminated": {}})
        return chunks(handler, *pieces, end=end)

    api.raw[LOG] = log
    lines = list(cluster_of(api).follow_log("p", "c"))
    assert "".join(lines).encode() == first.replace(b"\n", b"") + b"three"
    assert lines[0] == "2026-03-01T12:00:00.000000001Z is text here"


def test_a_silent_stream_is_opened_anew(api: TinyApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(podlog, "_PAUSE_S", 0.01)
    monkeypatch.setattr(podlog, "SILENT_S", 0.3)
    pod(api, {"running": {}})
    opened: list[float] = []

    def log(handler: BaseHTTPRequestHandler, _: dict[str, str]) -> None:
        opened.append(time.monotonic())
        if len(opened) == 1:
            handler.send_response(200)
            handler.send_header("Transfer-Encoding", "chunked")
            handler.end_headers()
            handler.wfile.flush()
            handler.rfile.read(1)  # until the client hangs up
            return
        pod(api, {"terminated": {}})
        chunks(handler, stamped("back"))

    api.raw[LOG] = log
    assert list(cluster_of(api, retry_s=0.1).follow_log("p", "c")) == ["back"]
    assert len(opened) == 2


def test_another_start_of_the_container_is_another_log(api: TinyApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(podlog, "_PAUSE_S", 0.01)
    pod(api, {"running": {}})

    def log(handler: BaseHTTPRequestHandler, _: dict[str, str]) -> None:
        pod(api, {"running": {}}, restarts=1)
        chunks(handler, stamped("first start"))

    api.raw[LOG] = log
    assert list(cluster_of(api).follow_log("p", "c")) == ["first start"]


def test_long_lines_come_in_pieces(api: TinyApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(podlog, "_PAUSE_S", 0.01)
    pod(api, {"terminated": {}})
    text = "x" * (podlog.MAX_LINE * 2 + 10)
    api.raw[LOG] = lambda handler, _: chunks(handler, stamped(text, "short"))
    lines = list(cluster_of(api).follow_log("p", "c"))
    assert max(map(len, lines)) <= podlog.MAX_LINE
    assert "".join(lines[:-1]) == text
    assert lines[-1] == "short"


def _followed_until_stopped(api: TinyApi, cluster: Cluster) -> list[str]:
    """Lines of a log that says one and then nothing, until the reader is asked to stop."""
    waiting, stop, lines = threading.Event(), threading.Event(), list[str]()
    api.raw[LOG] = lambda handler, _: _one_line_and_silence(handler, waiting)
    reader = threading.Thread(target=lambda: lines.extend(cluster.follow_log("p", "c", stop=stop)))
    reader.start()
    assert waiting.wait(5)
    stop.set()
    reader.join(3)
    assert not reader.is_alive()
    return lines


def test_following_stops_when_asked_and_when_the_pod_is_gone(api: TinyApi) -> None:
    pod(api, {"running": {}})
    cluster = cluster_of(api)
    assert _followed_until_stopped(api, cluster) == ["one"]
    del api.objects["/api/v1/namespaces/ns/pods/p"]
    assert list(cluster.follow_log("p", "c")) == []


def test_a_refused_log_is_an_error_and_an_unreachable_one_an_end(
    api: TinyApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(podlog, "_PAUSE_S", 0.05)
    pod(api, {"running": {}})
    denied = status(403, "Forbidden", 'pods "p" is forbidden: User "b" cannot get resource "pods/log"')
    api.faults = [Fault("GET", "/log", "status", code=403, body=denied)]
    with pytest.raises(KubeError) as caught:
        list(cluster_of(api).follow_log("p", "c"))
    assert caught.value.code == "api_denied"
    api.faults = [Fault("GET", "/log", "status", code=500, times=999)]
    assert list(cluster_of(api, retry_s=0.5).follow_log("p", "c")) == []


def test_over_tls_as_over_plain_http(tmp_path: Path) -> None:
    authority, key = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority, key)
    with tiny_api(context) as api:
        cluster = cluster_of(api, str(authority))
        assert cluster.namespace_uid() == "uid-of-ns"
        pod(api, {"running": {}})
        assert _followed_until_stopped(api, cluster) == ["one"]
        with pytest.raises(KubeError, match=r"No safe connection.*self-signed") as caught:
            cluster_of(api).namespace_uid()
        assert caught.value.code == "no_cluster"


def _one_line_and_silence(handler: BaseHTTPRequestHandler, waiting: threading.Event) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    piece = stamped("one")
    handler.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
    handler.wfile.flush()
    waiting.set()
    handler.rfile.read(1)
