"""The client repeats what may be repeated and says what was refused; each verb, and requests to pods."""

from __future__ import annotations

import json
import socket
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from accelbench_assets.launch.kube import naming
from accelbench_assets.launch.kube.errors import KubeError, failure_code, refusal
from accelbench_assets.launch.probe import Unreachable
from tests.launch.tiny_api import Fault, TinyApi, chunks, cluster_of, status

RUN = "0190f3c4-aaaa-7bbb-8ccc-0123456789ab"
MAPS = "/configmaps"


def config_map(run_id: str = RUN, name: str | None = None) -> dict[str, Any]:
    metadata = {"name": name or naming.base_name(run_id), "labels": naming.labels(run_id, "cell", "anchor")}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}


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
    # Each answer narrows it down; across a full second it is nearly exact.
    while behind() > timedelta(seconds=0.3):
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
