"""A server somebody else runs: what it says is recorded, what it refuses is said in one sentence, no key is
kept.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any

import pytest

from accelbench_assets.errors import LaunchError, UsageError
from accelbench_assets.launch.base import Deadline, Endpoint, ServerSpec
from accelbench_assets.launch.endpoint import EndpointLauncher, discover
from accelbench_assets.launch.probe import Server, Unreachable
from tests.launch.conftest import FakeServer, SpecMaker

KEY = "opaque-value-0451"


def serve(spec: ServerSpec, events: list[str] | None = None) -> Endpoint:
    def on_event(kind: str, message: str, data: Mapping[str, Any]) -> None:
        if events is not None:
            events.append(f"{kind} {message} {json.dumps(dict(data))}")

    with EndpointLauncher().serve(spec, Deadline.after(30), on_event) as endpoint:
        return endpoint


def refusal(spec: ServerSpec) -> LaunchError:
    with pytest.raises(LaunchError) as caught:
        serve(spec)
    return caught.value


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_a_server_is_asked_and_described(
    suffix: str, fake_server: FakeServer, endpoint_spec: SpecMaker
) -> None:
    fake_server.serve_models("HuggingFaceTB/SmolLM2-135M-Instruct", owned_by="vllm")
    fake_server.serve_completions()
    fake_server.routes["/version"] = (200, {}, {"version": "0.33.0"})
    fake_server.routes["/metrics"] = (200, {}, "# TYPE vllm:x counter\nvllm:x 1\n")
    spec = endpoint_spec(endpoint_url=fake_server.url + suffix, engine="vllm", engine_version="0.33.0")
    endpoint = serve(spec)
    assert endpoint.model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert endpoint.replicas[0].base_url == fake_server.url
    assert endpoint.supports_ignore_eos
    assert endpoint.read_metrics() == {endpoint.replicas[0].replica_id: "# TYPE vllm:x counter\nvllm:x 1\n"}
    facts = endpoint.facts
    expected = {
        "origin": "measured", "hardware": "declared", "launcher": "endpoint", "engine": "vllm",
        "engine_version": "0.33.0",
        "accelerators_used": None, "host_fingerprint": None, "instance_type": spec.cell.instance,
    }  # fmt: skip
    assert {name: facts[name] for name in expected} == expected
    assert facts["ready_at"] <= facts["torn_down_at"]
    paths = {path for path, _, _ in fake_server.seen}
    assert "/v1/chat/completions" in paths
    assert not any(path.startswith("/v1/v1") for path in paths)


def test_the_truth_server_is_simulated_whatever_it_claims(
    fake_server: FakeServer, endpoint_spec: SpecMaker
) -> None:
    fake_server.serve_models("m", owned_by="vllm", x_accelbench_origin="simulated")
    fake_server.serve_completions()
    endpoint = serve(endpoint_spec(served_model_name="m"))
    assert (endpoint.facts["origin"], endpoint.facts["engine"]) == ("simulated", "truth")


def test_a_mark_on_the_completion_alone_is_enough(fake_server: FakeServer, endpoint_spec: SpecMaker) -> None:
    fake_server.serve_models("m")
    fake_server.serve_completions(x_accelbench_origin="simulated")
    assert serve(endpoint_spec(served_model_name="m")).facts["origin"] == "simulated"


@pytest.mark.parametrize(
    ("owner", "headers", "routes", "engine", "version"),
    [
        ("vllm", {}, {"/version": {"version": "0.32.0"}}, "vllm", "0.32.0"),
        ("sglang", {}, {"/get_server_info": {"version": "0.5.23"}}, "sglang", "0.5.23"),
        ("library", {}, {"/api/version": {"version": "0.9.1"}}, "ollama", "0.9.1"),
        (
            "x",
            {"server": "llama.cpp"},
            {"/props": {"build_info": "b7001-abc", "total_slots": 2}},
            "llamacpp",
            "b7001-abc",
        ),
        ("llamacpp", {}, {"/props": {"build_info": "b0-unknown"}}, "llamacpp", None),
        ("vllm", {}, {}, "vllm", None),
        ("acme-cloud", {}, {}, None, None),
    ],
)
def test_engines_are_told_apart(
    owner: str, headers: dict[str, str], routes: dict[str, Any], engine: str | None, version: str | None,
    fake_server: FakeServer,
) -> None:  # fmt: skip
    fake_server.serve_models("m", owned_by=owner, **headers)
    fake_server.routes.update({path: (200, {}, body) for path, body in routes.items()})
    found = discover(fake_server.url)
    assert (found.engine, found.engine_version, found.models, found.origin) == (
        engine,
        version,
        ("m",),
        "measured",
    )


def test_a_wrong_model_lists_those_there_are(fake_server: FakeServer, endpoint_spec: SpecMaker) -> None:
    fake_server.serve_models("model-a", "model-b")
    error = refusal(endpoint_spec(served_model_name="model-c"))
    assert error.code == "model_not_found"
    assert "model-c" in error.message
    assert "model-a, model-b" in error.message


def test_a_server_without_a_model_list_is_asked_directly(
    fake_server: FakeServer, endpoint_spec: SpecMaker
) -> None:
    fake_server.serve_completions()
    assert serve(endpoint_spec(served_model_name="any")).model == "any"


def test_a_server_that_refuses_ignore_eos_is_still_used(
    fake_server: FakeServer, endpoint_spec: SpecMaker
) -> None:
    fake_server.serve_models("m")
    fake_server.serve_completions()
    fake_server.refuse_ignore_eos = True
    assert not serve(endpoint_spec(served_model_name="m")).supports_ignore_eos


def test_a_server_that_ignores_ignore_eos_does_not_support_it(
    fake_server: FakeServer, endpoint_spec: SpecMaker
) -> None:
    fake_server.serve_models("m")
    fake_server.serve_completions(tokens=2)
    assert not serve(endpoint_spec(served_model_name="m")).supports_ignore_eos


def test_the_api_key_is_used_and_never_kept(
    fake_server: FakeServer, endpoint_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENDPOINT_CRED", KEY)  # a name that does not look secret: only the flag makes it one
    fake_server.serve_models("m")
    fake_server.serve_completions()
    fake_server.api_key = KEY
    events: list[str] = []
    endpoint = serve(endpoint_spec(served_model_name="m", api_key_env="ENDPOINT_CRED"), events)
    assert all(headers["authorization"] == f"Bearer {KEY}" for _, headers, _ in fake_server.seen)
    assert KEY not in json.dumps(endpoint.facts) + repr(endpoint) + "".join(events)
    assert KEY not in repr(Server(fake_server.url, {"Authorization": f"Bearer {KEY}"}))


def test_a_wrong_or_missing_key_is_one_sentence(
    fake_server: FakeServer, endpoint_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_server.serve_models("m")
    fake_server.api_key = "another"
    monkeypatch.setenv("ENDPOINT_CRED", KEY)
    error = refusal(endpoint_spec(served_model_name="m", api_key_env="ENDPOINT_CRED"))
    assert error.code == "auth"
    assert "refuses the API key in ENDPOINT_CRED (status 401)" in error.message
    assert KEY not in str(error)
    error = refusal(endpoint_spec(served_model_name="m"))
    assert (error.code, "without an API key" in error.message) == ("auth", True)
    monkeypatch.delenv("ENDPOINT_CRED")
    error = refusal(endpoint_spec(served_model_name="m", api_key_env="ENDPOINT_CRED"))
    assert error.code == "auth"
    assert error.message == "Environment variable ENDPOINT_CRED, which should hold the API key, is not set."


def test_an_error_that_repeats_the_key_is_scrubbed(
    fake_server: FakeServer, endpoint_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENDPOINT_CRED", KEY)
    fake_server.serve_models("m")
    fake_server.routes["/v1/chat/completions"] = (400, {}, {"error": f"no access with {KEY}"})
    fake_server.routes["/v1/completions"] = (400, {}, {"error": f"no access with {KEY}"})
    error = refusal(endpoint_spec(served_model_name="m", api_key_env="ENDPOINT_CRED"))
    assert error.code == "not_ready"
    assert "no access with" in error.message
    assert KEY not in str(error)


def test_nobody_there(endpoint_spec: SpecMaker) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    error = refusal(endpoint_spec(endpoint_url=f"http://127.0.0.1:{port}"))
    assert error.code == "unreachable"
    assert f"Nobody answers at http://127.0.0.1:{port}: Connection refused." in error.message


def test_https_to_a_server_without_tls(fake_server: FakeServer) -> None:
    with pytest.raises(LaunchError, match="TLS failed") as caught:
        discover(fake_server.url.replace("http://", "https://"))
    assert caught.value.code == "unreachable"


@pytest.mark.parametrize(
    "answer", [b"220 mail.example ESMTP\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab"]
)
def test_something_that_is_not_a_model_server(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=_answer_once, args=(listening, answer), daemon=True).start()
        with pytest.raises(LaunchError) as caught:
            discover(f"http://127.0.0.1:{listening.getsockname()[1]}")
    assert caught.value.code == "unreachable"


def _answer_once(listening: socket.socket, answer: bytes) -> None:
    connection, _ = listening.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(answer)


def test_an_answer_that_drips_is_bounded_in_time() -> None:
    stop = threading.Event()

    def drip(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
            while not stop.wait(0.02):
                connection.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=drip, args=(listening,), daemon=True).start()
        started = time.monotonic()
        with pytest.raises(Unreachable, match="no answer within"):
            Server(f"http://127.0.0.1:{listening.getsockname()[1]}").request("GET", "/", timeout_s=0.3)
        assert time.monotonic() - started < 60
        stop.set()


def test_a_server_that_is_not_what_the_cell_names(fake_server: FakeServer, endpoint_spec: SpecMaker) -> None:
    fake_server.serve_models("m", owned_by="vllm")
    fake_server.routes["/version"] = (200, {}, {"version": "0.33.0"})
    for engine, version in (("sglang", "unstated"), ("vllm", "0.32.0")):
        error = refusal(endpoint_spec(served_model_name="m", engine=engine, engine_version=version))
        assert error.code == "wrong_version"
        assert "vllm 0.33.0" in error.message


def test_a_cell_without_its_url_or_with_another(fake_server: FakeServer, endpoint_spec: SpecMaker) -> None:
    spec = endpoint_spec()
    without = ServerSpec(spec.run_id, spec.cell, spec.model_id, spec.work_dir)
    assert refusal(without).code == "no_endpoint"
    assert refusal(endpoint_spec(instance="endpoint-00000000")).code == "wrong_machine"


@pytest.mark.parametrize("url", ["ftp://h", "h:8000", "http://user:pw@h:1", "http://h:1/?key=abc"])
def test_urls_that_cannot_be_used(url: str) -> None:
    with pytest.raises(UsageError, match="--endpoint") as caught:
        discover(url)
    assert "pw" not in str(caught.value)
    assert "abc" not in str(caught.value)
