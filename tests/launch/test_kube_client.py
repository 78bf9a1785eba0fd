"""The client repeats what may be repeated, says what was refused, and reads logs through every state of a pod."""

from __future__ import annotations

import json
import logging
import os
import socket
import ssl
import stat
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import yaml

from accelbench_assets.errors import LaunchError
from accelbench_assets.launch.kube import connect, naming, podlog
from accelbench_assets.launch.kube.client import Cluster
from accelbench_assets.launch.kube.errors import KubeError, failure_code, refusal
from accelbench_assets.launch.probe import Unreachable
from accelbench_assets.settings_groups import KubeSettings
from tests.launch.tiny_api import Fault, TinyApi, chunks, cluster_of, status, tiny_api
from tests.support.certificate import certificate

RUN = "0190f3c4-aaaa-7bbb-8ccc-0123456789ab"
MAPS = "/configmaps"


@pytest.fixture
def api() -> Iterator[TinyApi]:
    with tiny_api() as running:
        yield running


def config_map(run_id: str = RUN, name: str | None = None) -> dict[str, Any]:
    metadata = {"name": name or naming.base_name(run_id), "labels": naming.labels(run_id, "cell", "anchor")}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}


# -- names ---------------------------------------------------------------------------------------------------


def test_names_come_from_the_end_of_the_run_id() -> None:
    assert naming.base_name(RUN) == "accelbench-0123456789ab"
    assert naming.load_name(RUN) == "accelbench-0123456789ab-load"
    assert naming.run12(RUN[:-1] + "C").endswith("ac")
    odd = naming.run12("Run_of somebody")
    assert len(odd) == 12
    assert set(odd) <= set("0123456789abcdef")
    assert naming.selector(RUN, "load") == (
        "app.kubernetes.io/managed-by=accelbench,accelbench.io/run=0123456789ab,"
        "app.kubernetes.io/component=load"
    )
    with pytest.raises(ValueError, match="'lod' is not one of"):
        naming.labels(RUN, "cell", "lod")


def test_times_go_to_annotations_and_back() -> None:
    moment = datetime(2026, 3, 1, 12, 0, 0, 120, tzinfo=UTC)
    notes = naming.annotations(RUN, moment.astimezone(), 180.0)
    assert notes["accelbench.io/expires-at"] == "2026-03-01T12:00:00.000120Z"
    assert notes["accelbench.io/stale-s"] == "180"
    assert naming.parse_time(notes[naming.EXPIRES_AT]) == moment
    assert naming.parse_time("2026-03-01T12:00:00Z") == moment.replace(microsecond=0)
    assert naming.parse_time("soon") is None
    assert naming.parse_time(None) is None


# -- what is repeated, and what is not -----------------------------------------------------------------------


@pytest.mark.parametrize("code", [429, 500, 504])
def test_a_busy_server_is_asked_again(api: TinyApi, code: int) -> None:
    api.faults = [Fault("GET", "/pods/", "status", code=code, times=2)]
    api.put("pods", "p")
    found = cluster_of(api).get("Pod", "p")
    assert found is not None
    assert (found["kind"], found["apiVersion"]) == ("Pod", "v1")
    assert api.calls("GET", "/pods/p") == 3


def test_a_server_is_left_alone_as_long_as_it_asks(api: TinyApi) -> None:
    api.faults = [Fault("GET", "/pods/", "status", code=429, headers={"Retry-After": "1"})]
    began = time.monotonic()
    assert cluster_of(api).get("Pod", "absent") is None
    assert time.monotonic() - began >= 1.0


def test_a_lost_connection_and_a_frozen_server_are_asked_again(api: TinyApi) -> None:
    api.put("pods", "p")
    api.faults = [Fault("GET", "/pods/", "drop"), Fault("GET", "/pods/", "freeze", seconds=60.0)]
    assert cluster_of(api, timeout_s=1.0).get("Pod", "p") is not None
    assert api.calls("GET", "/pods/p") == 3


def test_patience_ends(api: TinyApi) -> None:
    api.faults = [Fault("GET", "/pods/", "status", code=503, times=99)]
    with pytest.raises(KubeError, match=r"refused reading Pod p: injected \(HTTP 503\)") as caught:
        cluster_of(api, retry_s=1.0).get("Pod", "p")
    assert caught.value.code == "api_unavailable"
    assert 1 < api.calls("GET") < 99
    before = api.calls("GET")
    with pytest.raises(KubeError):
        cluster_of(api).get("Pod", "p", retry_s=0)
    assert api.calls("GET") == before + 1


def test_a_conflict_is_asked_again(api: TinyApi) -> None:
    api.faults = [Fault("GET", "/pods/", "status", code=409, body=status(409, "Conflict", "busy"), times=2)]
    assert cluster_of(api).get("Pod", "p") is None
    assert api.calls("GET", "/pods/p") == 3


@pytest.mark.parametrize(
    ("code", "reason", "message", "expected"),
    [
        (403, "Forbidden", 'pods "p" is forbidden: User "bob" cannot get resource "pods"', "api_denied"),
        (403, "Forbidden", 'pods "p" is forbidden: exceeded quota: q, requested: nvidia.com/gpu=2', "quota"),
        (403, "Forbidden", 'pods "p" is forbidden: no PriorityClass with name x was found', "bad_config"),
        (400, "BadRequest", "strict decoding error: unknown field", "bad_config"),
        (422, "Invalid", "spec.replicas: Invalid value", "bad_config"),
    ],
)
def test_a_refusal_is_final_and_has_its_code(
    api: TinyApi, code: int, reason: str, message: str, expected: str
) -> None:
    api.faults = [Fault("GET", "/pods/", "status", code=code, body=status(code, reason, message), times=9)]
    with pytest.raises(KubeError) as caught:
        cluster_of(api).get("Pod", "p")
    assert (caught.value.code, caught.value.status, caught.value.reason) == (expected, code, reason)
    assert message in caught.value.message
    assert api.calls("GET", "/pods/p") == 1


def test_unauthorized_is_tried_twice_more_only(api: TinyApi) -> None:
    api.faults = [Fault("GET", "/pods/", "status", code=401, times=2)]
    assert cluster_of(api).get("Pod", "p") is None
    api.faults = [Fault("GET", "/pods/", "status", code=401, times=9)]
    with pytest.raises(KubeError) as caught:
        cluster_of(api).get("Pod", "p")
    assert caught.value.code == "api_denied"
    assert api.calls("GET", "/pods/p") == 6


def test_a_refusal_shows_no_secret_and_no_novel() -> None:
    told = status(
        422, "Invalid", "spec: Invalid value: password=hunter2hunter2 " + "x" * 5000 + " field is immutable"
    )
    error = refusal(422, json.dumps(told), "creating Job j")
    assert "hunter2" not in str(error)
    assert len(error.message) < 800
    assert "field is immutable" in error.message
    assert failure_code(404, status(404, "NotFound", "", kind="namespaces")) == "no_cluster"
    assert refusal(502, b"<html>\xff bad gateway", "listing pods").code == "api_unavailable"


def test_nobody_listening_is_no_cluster_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accelbench_assets.launch.kube.calls.FIRST_CONTACT_S", 0.5)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        api = TinyApi()
        api.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(KubeError, match="cannot be reached") as caught:
            cluster_of(api, retry_s=30.0).namespace_uid()
    assert caught.value.code == "no_cluster"


# -- verbs ---------------------------------------------------------------------------------------------------


def test_a_repeated_create_takes_its_own_object_for_done(api: TinyApi) -> None:
    api.faults = [Fault("POST", MAPS, "lose")]
    made = cluster_of(api).create(config_map())
    assert (
        made["metadata"]["uid"]
        == api.objects["/api/v1/namespaces/ns/configmaps/accelbench-0123456789ab"]["metadata"]["uid"]
    )
    assert api.calls("POST", MAPS) == 2
    assert api.requests[0][2]["fieldValidation"] == "Strict"


def test_a_name_taken_by_another_run_is_a_conflict(api: TinyApi) -> None:
    cluster = cluster_of(api)
    cluster.create(config_map("0190f3c4-aaaa-7bbb-8ccc-ffffffffffff", name="shared"))
    with pytest.raises(KubeError, match="already exists") as caught:
        cluster.create(config_map(name="shared"))
    assert caught.value.code == "conflict"


def test_an_object_on_its_way_out_is_not_taken_for_created(api: TinyApi) -> None:
    cluster = cluster_of(api)
    api.put(
        "configmaps",
        "accelbench-0123456789ab",
        metadata={**config_map()["metadata"], "deletionTimestamp": "x"},
    )
    with pytest.raises(KubeError) as caught:
        cluster.create(config_map())
    assert caught.value.code == "conflict"


def test_a_false_conflict_does_not_stop_a_create(api: TinyApi) -> None:
    api.faults = [Fault("POST", MAPS, "status", code=409, body=status(409, "Conflict", "try again"))]
    assert cluster_of(api).create(config_map())["metadata"]["name"] == "accelbench-0123456789ab"


def test_lists_come_in_pages_and_start_over_when_they_grow_old(
    api: TinyApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accelbench_assets.launch.kube.client._PAGE", 2)
    for number in range(5):
        api.put("pods", f"p{number}", metadata={"labels": {"app": "a" if number else "b"}})
    cluster = cluster_of(api)
    assert [one["metadata"]["name"] for one in cluster.list("Pod", labels="app=a")] == [
        "p1",
        "p2",
        "p3",
        "p4",
    ]
    assert {one["kind"] for one in cluster.list("Pod")} == {"Pod"}
    expired = status(410, "Expired", "The provided continue parameter is too old")
    with api.lock:
        api.requests.clear()
    answers = iter([None, Fault("GET", "/pods", "status", code=410, body=expired)])
    plain = api.fault
    monkeypatch.setattr(api, "fault", lambda method, path: next(answers, None) or plain(method, path))
    assert len(cluster.list("Pod")) == 5
    assert [query.get("continue") for _, _, query, *_ in api.requests] == [None, "2", None, "2", "4"]


def test_deleting_always_takes_what_is_owned(api: TinyApi) -> None:
    cluster = cluster_of(api)
    api.put("jobs", "j", prefix="/apis/batch/v1/namespaces/ns")
    api.faults = [Fault("DELETE", "/jobs/", "lose")]
    cluster.delete("Job", "j")
    assert cluster.get("Job", "j") is None
    assert cluster.delete("Job", "j", grace_s=0) is False
    bodies = [body for method, *_, body in api.requests if method == "DELETE"]
    assert {body["propagationPolicy"] for body in bodies} == {"Background"}
    assert bodies[-1]["gracePeriodSeconds"] == 0


def test_a_patch_merges_and_is_repeated_on_a_conflict(api: TinyApi) -> None:
    cluster = cluster_of(api)
    cluster.create(config_map())
    api.faults = [Fault("PATCH", MAPS, "status", code=409, body=status(409, "Conflict", "modified"))]
    changed = cluster.patch("ConfigMap", "accelbench-0123456789ab", {"data": {"a": "1"}})
    assert changed is not None
    assert changed["data"] == {"a": "1"}
    assert changed["metadata"]["labels"] == config_map()["metadata"]["labels"]
    assert cluster.patch("ConfigMap", "absent", {"data": {}}) is None
    sent = [headers["content-type"] for method, _, _, headers, _ in api.requests if method == "PATCH"]
    assert set(sent) == {"application/merge-patch+json"}


def test_the_content_of_a_secret_stays_outside(api: TinyApi) -> None:
    api.put("secrets", "s", data={"token": "aGZfY2FuYXJ5"})
    found = cluster_of(api).get("Secret", "s")
    assert found is not None
    assert "aGZfY2FuYXJ5" not in json.dumps(found)
    assert "PartialObjectMetadata" in api.requests[-1][3]["accept"]


def test_identity_version_and_rights(api: TinyApi) -> None:
    cluster = cluster_of(api)
    assert cluster.namespace_uid() == "uid-of-ns"
    assert cluster.namespace_uid() == "uid-of-ns"
    assert api.calls("GET", "/namespaces/ns") == 1
    assert cluster.version() == "v1.36.2-tiny"
    assert not cluster.emulated()
    assert not cluster.in_cluster()
    asked: list[Any] = []

    def review(handler: BaseHTTPRequestHandler, _: dict[str, str]) -> None:
        asked.append(api.requests[-1][4]["spec"]["resourceAttributes"])
        chunks(handler, json.dumps({"status": {"allowed": len(asked) == 1}}).encode())

    api.raw["/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"] = review
    assert cluster.can("get", "pods/log")
    assert not cluster.can("create", "jobs", "batch")
    assert asked[0] == {
        "namespace": "ns",
        "verb": "get",
        "group": "",
        "resource": "pods",
        "subresource": "log",
    }
    del api.objects["/api/v1/namespaces/ns"]
    with pytest.raises(KubeError, match="namespace ns does not exist") as caught:
        cluster_of(api).namespace_uid()
    assert caught.value.code == "no_cluster"


def test_the_clock_is_the_servers(api: TinyApi) -> None:
    ahead = timedelta(hours=3)

    def version(handler: BaseHTTPRequestHandler, _: dict[str, str]) -> None:
        handler.send_response_only(200)
        handler.send_header("Date", handler.date_time_string(time.time() + ahead.total_seconds()))
        handler.send_header("Content-Length", "2")
        handler.end_headers()
        handler.wfile.write(b"{}")

    api.raw["/version"] = version
    cluster = cluster_of(api)
    exact = timedelta(seconds=0.01)

    def behind() -> timedelta:
        return datetime.now(UTC) + ahead - cluster.server_time()

    assert behind() >= -exact
    end = time.monotonic() + 60
    while behind() > timedelta(
        seconds=0.3
    ):  # each answer narrows it down; across a full second it is nearly exact
        assert time.monotonic() < end
        cluster.calls.send("GET", "/version", "asking")
        assert behind() >= -exact, "never ahead of the server"
        time.sleep(0.05)


def test_requests_to_pods_go_through_the_server_once(api: TinyApi) -> None:
    path = "/api/v1/namespaces/ns/pods/p:8000/proxy/v1/models"

    def served(handler: BaseHTTPRequestHandler, query: dict[str, str]) -> None:
        payload = b"\xff not text"
        handler.send_response(418 if query else 200)
        handler.send_header("Content-Length", str(len(payload)))
        handler.end_headers()
        handler.wfile.write(payload)

    api.raw[path] = served
    cluster = cluster_of(api)
    reply = cluster.proxy("p", 8000, "GET", "/v1/models", None, 5.0)
    assert (reply.status, reply.body) == (200, b"\xff not text")
    reply = cluster.proxy("p", 8000, "POST", "/v1/models?a=b", {"x": 1}, 5.0)
    assert (reply.status, reply.body) == (418, b"\xff not text")
    assert api.requests[-1][2] == {"a": "b"}
    for fault in (
        Fault(
            "GET",
            "proxy",
            "status",
            code=503,
            body=status(503, "ServiceUnavailable", "error trying to reach"),
        ),
        Fault("GET", "proxy", "drop"),
    ):
        api.faults = [fault]
        before = api.calls("GET", "proxy")
        with pytest.raises(Unreachable):
            cluster.proxy("p", 8000, "GET", "/v1/models", None, 5.0)
        assert api.calls("GET", "proxy") == before + 1
    denied = status(403, "Forbidden", 'pods "p" is forbidden: User "bob" cannot get resource "pods/proxy"')
    api.faults = [Fault("GET", "proxy", "status", code=403, body=denied)]
    with pytest.raises(KubeError) as caught:
        cluster.proxy("p", 8000, "GET", "/v1/models", None, 5.0)
    assert caught.value.code == "api_denied"


def test_many_threads_share_one_client(api: TinyApi) -> None:
    api.faults = [Fault("GET", "/pods/", "status", code=500, times=10)]
    for number in range(20):
        api.put("pods", f"p{number}")
    cluster, seen = cluster_of(api), []

    def work(number: int) -> None:
        for _ in range(5):
            found = cluster.get("Pod", f"p{number}")
            seen.append(found is not None and found["metadata"]["name"] == f"p{number}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert seen == [True] * 100


# -- logs ----------------------------------------------------------------------------------------------------

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


def test_following_stops_when_asked_and_when_the_pod_is_gone(api: TinyApi) -> None:
    pod(api, {"running": {}})
    waiting = threading.Event()
    api.raw[LOG] = lambda handler, _: _one_line_and_silence(handler, waiting)
    stop, lines = threading.Event(), []
    cluster = cluster_of(api)
    reader = threading.Thread(target=lambda: lines.extend(cluster.follow_log("p", "c", stop=stop)))
    reader.start()
    assert waiting.wait(5)
    stop.set()
    reader.join(3)
    assert not reader.is_alive()
    assert lines == ["one"]
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
        waiting, stop, lines = threading.Event(), threading.Event(), []
        api.raw[LOG] = lambda handler, _: _one_line_and_silence(handler, waiting)
        reader = threading.Thread(target=lambda: lines.extend(cluster.follow_log("p", "c", stop=stop)))
        reader.start()
        assert waiting.wait(5)
        stop.set()
        reader.join(3)
        assert not reader.is_alive()
        assert lines == ["one"]
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


# -- finding the cluster -------------------------------------------------------------------------------------


@pytest.fixture
def no_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def kubeconfig(path: Path, server: str, user: dict[str, Any]) -> Path:
    context = {"name": "test", "context": {"cluster": "c", "user": "u"}}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [context],
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": user}],
    }
    path.write_text(yaml.safe_dump(document))
    return path


def test_a_kubeconfig_is_used(
    api: TinyApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_cluster: None
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://192.0.2.1:9")
    path = kubeconfig(tmp_path / "config", api.url, {"token": "canary-token-0123"})
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path / 'absent'}{os.pathsep}{path}")
    cluster = Cluster.connect(KubeSettings(namespace="ns"), agent="accelbench-test")
    assert cluster.namespace_uid() == "uid-of-ns"
    headers = api.requests[-1][3]
    assert headers["authorization"] == "Bearer canary-token-0123"
    assert headers["user-agent"] == "accelbench-test"


def test_what_is_wrong_with_a_kubeconfig_is_said_without_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_cluster: None
) -> None:
    path = kubeconfig(tmp_path / "config", "http://127.0.0.1:9", {"token": "canary-token-0123"})
    monkeypatch.setenv("KUBECONFIG", str(path))
    with pytest.raises(LaunchError, match="object with name other is missing") as caught:
        Cluster.connect(KubeSettings(context="other"))
    assert caught.value.code == "no_cluster"
    assert "canary" not in str(caught.value)
    for content in ("users: [}\ntoken: canary-token-0123", "canary-token-0123", "{}", ""):
        path.write_text(content)
        with pytest.raises(LaunchError) as caught:
            Cluster.connect(KubeSettings())
        assert caught.value.code == "no_cluster"
        assert "canary" not in str(caught.value)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nowhere"))
    with pytest.raises(LaunchError, match=r"nowhere does not exist.*update-kubeconfig"):
        Cluster.connect(KubeSettings())
    monkeypatch.delenv("KUBECONFIG")
    with pytest.raises(LaunchError, match=r"\.kube/config does not exist"):
        Cluster.connect(KubeSettings())


def test_a_pod_without_a_token_is_told_so(monkeypatch: pytest.MonkeyPatch, no_cluster: None) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    with pytest.raises(LaunchError, match="service account cannot be used") as caught:
        Cluster.connect(KubeSettings())
    assert caught.value.code == "no_cluster"


def plugin(path: Path, script: str) -> dict[str, Any]:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(path)}}


def test_credentials_of_a_command(
    api: TinyApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_cluster: None
) -> None:
    told = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"token": "from-the-command", "expirationTimestamp": "2020-01-01T00:00:00Z"},
    }
    (tmp_path / "token").write_text(json.dumps(told))
    user = plugin(tmp_path / "get-token", f"cat {tmp_path / 'token'}")
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path / "config", api.url, user)))
    cluster = Cluster.connect(KubeSettings(namespace="ns"))
    assert cluster.source == str(tmp_path / "config")
    (tmp_path / "token").write_text(json.dumps(told).replace("from-the-command", "renewed"))
    assert cluster.namespace_uid() == "uid-of-ns"
    assert api.requests[-1][3]["authorization"] == "Bearer renewed"
    plugin(tmp_path / "get-token", "echo 'the session has ended' >&2; exit 1")
    api.faults = [Fault("GET", "/pods/", "status", code=401, times=9)]
    with pytest.raises(KubeError) as caught:
        cluster.get("Pod", "p", retry_s=0)
    assert caught.value.code == "api_denied"
    assert "the session has ended" in (caught.value.hint or "")


def test_a_credential_command_that_fails_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_cluster: None, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connect, "CREDENTIALS_S", 5.0)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    handlers = list(logging.getLogger().handlers)

    def refused(user: dict[str, Any]) -> LaunchError:
        kubeconfig(tmp_path / "config", "http://127.0.0.1:9", user)
        with pytest.raises(LaunchError) as caught:
            Cluster.connect(KubeSettings())
        assert caught.value.code == "no_cluster"
        return caught.value

    missing = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "aws", "args": ["eks"]}}
    error = refused(missing)
    assert "'aws' is not installed" in error.message
    assert "Install the AWS CLI" in (error.hint or "")
    error = refused(plugin(tmp_path / "fails", "echo 'no session, password=hunter2hunter2' >&2; exit 255"))
    assert "no session" in error.message
    assert "hunter2" not in str(error)
    assert "no credential" in refused(plugin(tmp_path / "odd", "echo canary-token")).message
    assert "canary" not in caplog.text + "".join(record.getMessage() for record in caplog.records)
    assert logging.getLogger().handlers == handlers


def test_a_credential_command_that_hangs_is_given_up() -> None:
    hang = threading.Event()
    with pytest.raises(LaunchError, match="no answer within 0 s") as caught:
        connect._bounded(lambda: bool(hang.wait(30)) or None, 0.2)
    hang.set()
    assert caught.value.code == "no_cluster"
