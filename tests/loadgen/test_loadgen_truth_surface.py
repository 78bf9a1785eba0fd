"""The ground-truth server over HTTP: what engines' clients may ask, and what is refused."""

from __future__ import annotations

import re
import socket
from typing import Any

import pytest

from tests.loadgen.conftest import HANG_S
from tests.loadgen.truth_client import FAST, PROMPT, Start, call, chat, streamed


def test_answers_have_the_fields_that_clients_read(truth: Start) -> None:
    server = truth(*FAST, "--header", "X-TTFT-MS=5")
    whole = chat(server, max_tokens=3, ignore_eos=True)
    assert (whole.status, whole.headers["x-accelbench-origin"], whole.headers["x-ttft-ms"]) == (
        200,
        "simulated",
        "5",
    )
    answer = whole.json
    assert (answer["object"], answer["model"]) == ("chat.completion", "m")
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "time year hand "},
            "finish_reason": "length",
        }
    ]
    assert answer["usage"] == {
        "prompt_tokens": 8,
        "completion_tokens": 3,
        "total_tokens": 11,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    text = call(server, "/v1/completions", {"model": "m", "prompt": PROMPT, "max_tokens": 2}).json
    assert (text["object"], text["choices"][0]["text"]) == ("text_completion", "time year ")
    events = streamed(server, max_tokens=3, ignore_eos=True).events
    assert [event["choices"][0]["delta"] for event in events if event["choices"]] == [
        {"role": "assistant", "content": ""},
        {"content": "time "},
        {"content": "year "},
        {"content": "hand "},
        {},
    ]
    assert [event["choices"][0]["finish_reason"] for event in events[:-1]] == [None] * 4 + ["length"]
    assert (events[-1]["choices"], events[-1]["usage"]["completion_tokens"]) == ([], 3)
    assert all("usage" not in event for event in events[:-1])
    assert all("usage" not in event for event in streamed(server, usage=False, max_tokens=3).events)


def test_usage_in_every_chunk_when_it_is_asked_for(truth: Start) -> None:
    server = truth(*FAST)
    events = streamed(server, max_tokens=4, stream_options={"continuous_usage_stats": True}).events
    assert [event["usage"]["completion_tokens"] for event in events] == [0, 1, 2, 3, 4, 4, 4]


def test_lengths_are_those_asked_for(truth: Start) -> None:
    server = truth(*FAST, "--tokens", "10")

    def tokens(**fields: Any) -> tuple[int, str]:
        answer = chat(server, **fields).json
        return answer["usage"]["completion_tokens"], answer["choices"][0]["finish_reason"]

    assert tokens() == (10, "stop")
    assert tokens(max_tokens=5) == (5, "length")
    assert tokens(max_completion_tokens=5, max_tokens=7) == (5, "length")
    assert tokens(max_tokens=30) == (10, "stop")
    assert tokens(max_tokens=30, ignore_eos=True) == (30, "length")
    assert tokens(max_tokens=30, min_tokens=20) == (20, "stop")


def test_prompts_of_every_shape_are_counted(truth: Start) -> None:
    server = truth(*FAST)
    for prompt, words in (("a b", 2), (["a b c"], 3), ([1, 2, 3, 4], 4), ([[1, 2]], 2)):
        got = call(server, "/v1/completions", {"model": "m", "prompt": prompt, "max_tokens": 1})
        assert got.json["usage"]["prompt_tokens"] == words + 4, prompt
    parts = [{"type": "text", "text": "a b"}, {"type": "image_url", "image_url": {"url": "x"}}]
    messages = [{"role": "system", "content": "x y z"}, {"role": "user", "content": parts}]
    body = {"model": "m", "messages": [*messages, {"role": "assistant", "content": None}], "max_tokens": 1}
    assert call(server, "/v1/chat/completions", body).json["usage"]["prompt_tokens"] == 5 + 4


@pytest.mark.parametrize(
    ("path", "body", "status", "param", "says"),
    [
        ("/v1/chat/completions", b"{", 400, None, "not JSON"),
        ("/v1/chat/completions", b"[]", 400, None, "must be a JSON object"),
        ("/v1/completions", {"prompt": "x"}, 400, "model", "provide a model"),
        ("/v1/completions", {"model": "m"}, 400, "prompt", "must be a string"),
        ("/v1/chat/completions", {"model": "m", "messages": []}, 400, "messages", "at least one"),
        ("/v1/chat/completions", {"model": "m", "messages": ["x"]}, 400, "messages", "with a role"),
        ("/v1/completions", {"model": "m", "prompt": "x", "max_tokens": 0}, 400, "max_tokens", "at least 1"),
        ("/v1/completions", {"model": "m", "prompt": "x", "max_tokens": "9"}, 400, "max_tokens", "'9'"),
        ("/v1/completions", {"model": "m", "prompt": "x", "max_tokens": 2, "min_tokens": 3}, 400, "min_tokens", "2"),
        ("/v1/completions", {"model": "m", "prompt": "x", "n": 2}, 400, "n", "only n=1"),
        ("/v1/completions", {"model": "m", "prompt": "x", "stream_options": {"a": 1}}, 400, "stream_options", "stream"),
        ("/v1/completions", {"model": "m", "prompt": "a " * 90, "max_tokens": 9}, 400, "prompt", "length is 100"),
        ("/v1/completions", {"model": "other", "prompt": "x"}, 404, "model", "does not exist"),
        ("/v1/embeddings", {"model": "m"}, 404, None, "no such path: /v1/embeddings"),
        ("/health", {}, 405, None, "/health takes GET"),
    ],
)  # fmt: skip
def test_refusals_have_openais_shape(
    truth: Start, path: str, body: Any, status: int, param: str | None, says: str
) -> None:
    got = call(truth(*FAST, "--model", "m", "--max-model-len", "100"), path, body)
    error = got.json["error"]
    assert (got.status, error["param"], sorted(error)) == (
        status,
        param,
        ["code", "message", "param", "type"],
    )
    assert says in error["message"]
    assert got.headers["x-accelbench-origin"] == "simulated"


def test_pages(truth: Start) -> None:
    server = truth("--model", "a", "--model", "b", "--max-model-len", "4096")
    assert call(server, "/health").json == {"status": "ok"}
    assert call(server, "/version").json["engine"] == "accelbench-truth"
    models = call(server, "/v1/models?x=1").json
    assert [(one["id"], one["max_model_len"]) for one in models["data"]] == [("a", 4096), ("b", 4096)]
    for body, count in (
        ({"prompt": "x y"}, 2),
        ({"content": "x y z"}, 3),
        ({"messages": [{"role": "user", "content": "x"}]}, 5),
    ):
        found = call(server, "/tokenize", body).json
        assert (found["count"], len(found["tokens"]), found["max_model_len"]) == (count, count, 4096)
    assert call(server, "/tokenize", b"?").status == 400


def test_connections_outlive_refusals_and_pipelined_requests_are_answered_in_turn(truth: Start) -> None:
    server = truth(*FAST)
    host, _, port = server.url.removeprefix("http://").partition(":")
    body = b'{"model":"m","prompt":"x","max_tokens":2}'
    post = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    get = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    bad = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n{"
    last = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=HANG_S) as sock:
        sock.sendall(post + get + bad + post + last)
        received = b""
        while data := sock.recv(65536):
            received += data
    statuses = re.findall(rb"HTTP/1.1 (\d+)", received)
    assert statuses == [b"200", b"200", b"400", b"200", b"200"]
    assert received.count(b'"time year "') == 2
    assert received.rstrip().endswith(b'{"status":"ok"}')


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"POST /v1/completions HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400),
        (b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
        (b"POST /v1/completions HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * 70_000, 400),
    ],
)
def test_what_is_no_request_ends_the_connection(truth: Start, raw: bytes, status: int) -> None:
    host, _, port = truth(*FAST).url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=HANG_S) as sock:
        sock.sendall(raw)
        received = b""
        while data := sock.recv(65536):
            received += data
    assert received.startswith(b"HTTP/1.1 %d " % status)


def test_a_client_may_wait_to_be_told_to_send_its_body(truth: Start) -> None:
    host, _, port = truth(*FAST).url.removeprefix("http://").partition(":")
    body = b'{"model":"m","prompt":"x","max_tokens":1}'
    with socket.create_connection((host, int(port)), timeout=HANG_S) as sock:
        sock.sendall(
            b"POST /v1/completions HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body)
        )
        assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(body)
        assert sock.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")
